"""Figures of loads, medians over rounds, and the table that is printed."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.serving.load import Load

NAMES = {
    "a": "a official, in process",
    "b": "b official, FastAPI",
    "c": "c official, LitServe",
    "d": "d ours, in process",
    "e": "e ours, three stages",
    "f": "f ours, fused",
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def summary(load: Load) -> dict[str, float]:
    count = max(1, len(load.took))
    p50, p95 = np.percentile(load.took, (50, 95)) if load.took else (float("nan"),) * 2
    return {
        "answers": len(load.took),
        "failed": load.failed,
        "rate": load.rate,
        "p50_s": float(p50),
        "p95_s": float(p95),
        "cpu_s": load.server_cpu_s / count,
        "client_cpu_s": load.client_cpu_s / count,
    }


def machine() -> dict[str, Any]:
    versions = {}
    for name in ("torch", "ray", "fastapi", "uvicorn", "litserve", "segment-anything", "groundingdino-py"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "cpu": next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown"),
        "cores": len(os.sched_getaffinity(0)),
        "load_average_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": versions,
    }


def spread(values: Sequence[float], scale: float = 1, digits: int = 0) -> str:
    """Median, and the range where there is one."""
    middle = f"{scale * median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({scale * min(values):.{digits}f}-{scale * max(values):.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def closed_table(figures: dict[str, Any]) -> str:
    rows = []
    for arm, rounds in figures["closed"].items():
        for level in (key for key in rounds[0] if key != "peak_mb"):
            of = _picker([one[level] for one in rounds])
            rows.append(
                [
                    NAMES[arm],
                    level,
                    spread(of("rate"), 1, 1),
                    spread(of("p50_s"), 1000),
                    spread(of("p95_s"), 1000),
                    spread(of("cpu_s"), 1000),
                    spread(of("client_cpu_s"), 1000, 1),
                    spread([one["peak_mb"] for one in rounds]),
                    f"{sum(of('failed')):.0f}",
                ]
            )
    head = (
        "arm",
        "clients",
        "images/s",
        "p50 ms",
        "p95 ms",
        "CPU ms a request",
        "client's CPU ms",
        "peak MB",
        "failed",
    )
    return table(head, rows)


def _picker(rows: Sequence[dict[str, float]]) -> Callable[[str], list[float]]:
    return lambda name: [row[name] for row in rows]


def open_table(figures: dict[str, Any]) -> str:
    rows = []
    for arm, rounds in figures["open"].items():
        for fraction in rounds[0]:
            of = _picker([one[fraction] for one in rounds])
            rows.append(
                [
                    NAMES[arm],
                    f"{float(fraction):.0%} ({of('asked')[0]:.1f}/s)",
                    spread(of("goodput"), 1, 1),
                    spread(of("p50_s"), 1000),
                    spread(of("p95_s"), 1000),
                    f"{sum(of('failed')):.0f}",
                ]
            )
    return table(("arm", "asked", "within the SLO, a second", "p50 ms", "p95 ms", "failed"), rows)


def text(figures: dict[str, Any]) -> str:
    about = figures["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    parts = [
        f"{about['cpu']}, {about['cores']} cores, load average before {about['load_average_before']:.1f}; Python "
        f"{about['python']}, {versions}. {figures['rounds']} rounds, {figures['seconds']:g} s a load; medians "
        f"(ranges). The clients share the cores. Answers equal those of a, of {figures['detections']} detections an "
        f"arm; near a threshold on one side only: {figures['near']}.",
        closed_table(figures),
        f"Poisson arrivals, as shares of a's capacity; timed from the intended send; SLO {1000 * figures['slo_s']:.0f} "
        "ms, three times a's p50 alone.",
        open_table(figures),
        *(f"Arm {arm} is left out: {why}." for arm, why in figures["left_out"].items()),
        *figures["extras"]["lines"],
    ]
    return "\n\n".join(parts)
