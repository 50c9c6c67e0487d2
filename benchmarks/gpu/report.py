"""The machine, and the table: each arm beside the official code on the same card, and beside what is aimed at."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

TARGETS = {"encoder vit_b": 250, "encoder vit_h": 60, "detector": 120, "pipeline vit_b": 70, "pipeline vit_h": 35}
"""Images a second on one H200; and each at least five times the official code."""


def describe(device: str) -> dict[str, Any]:
    """What the figures are measured on. Raises SystemExit where it is not there."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("No GPU that torch can use; --cpu --tiny runs the same on a CPU, to see that it runs.")

    machine: dict[str, Any] = {"device": platform.processor() or platform.machine(), "cpus": os.cpu_count()}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        machine["device"] = properties.name
        machine["memory_gb"] = round(properties.total_memory / 2**30, 1)
        machine["cuda"] = torch.version.cuda
    return machine | {"torch": torch.__version__, "triton": _triton(), "python": platform.python_version()}


def _triton() -> str | None:
    try:
        return version("triton")
    except ModuleNotFoundError:
        return None


def show(machine: dict[str, Any], rows: list[dict[str, Any]], *, tiny: bool) -> None:
    """Prints the table; what went wrong under it, in full."""
    table = Table(
        "stage", "arm", "batch", "images/s", "official", "aim", "GPU GB", "difference", title=str(machine["device"])
    )
    official = {row["stage"]: row["rate"] for row in rows if row["arm"] == "official" and row.get("rate")}
    remarks = []
    for row in rows:
        rate, first = row.get("rate"), official.get(row["stage"])
        table.add_row(
            row["stage"],
            row["arm"],
            str(row["batch"]),
            "failed" if rate is None else f"{rate:.1f} ({row['slowest']:.1f}-{row['fastest']:.1f})",
            f"{rate / first:.1f}x" if rate and first else "",
            "" if tiny else str(TARGETS[row["stage"]]),
            f"{row['peak_gb']:.1f}" if row.get("peak_gb") else "",
            f"{row['difference']:.0e}" if row.get("difference") is not None else "",
        )
        remarks += [f"{row['stage']}, {row['arm']}: {row[key]}" for key in ("error", "note") if row.get(key)]
    console = Console(width=140)
    console.print(table)
    for remark in remarks:
        console.print(remark, markup=False, highlight=False)
