"""Rows made by hand, and what an output holds by the manifest and pyarrow alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deployments.jobs.rows import RESULTS, error_row, result_row
from tests.pipeline.formats.scene import result

SETTINGS = {"model": "tiny+tiny", "prompt": "red circle", "box_threshold": 0.3}


def good(name: str) -> dict[str, Any]:
    return result_row(name, f"/photos/{name}.png", '"red circle"', result(), {"detect": 1.5, "total": 2.25})


def bad(name: str, code: str = "image_undecodable") -> dict[str, Any]:
    return error_row(name, f"/photos/{name}.png", '"red circle"', code, "it cannot be read", {"load": 0.5})


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(rows, RESULTS)


def goods(names: Iterable[str]) -> pa.Table:
    return table(*map(good, names))


def manifest(output: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((output / "_manifest.json").read_text(encoding="utf-8"))
    return read


def listed(output: Path) -> list[dict[str, Any]]:
    """The rows of the files that the manifest lists."""
    return [row for part in manifest(output)["parts"] for row in pq.read_table(output / part["name"]).to_pylist()]
