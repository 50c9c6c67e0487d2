"""Workers without models, for tests of what lies around them. Every image gets an error; one kills its worker."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa
import pytest

from deployments.jobs import dataset
from deployments.jobs.halves import DONE, FOUND
from deployments.jobs.rows import error_row


class Finding:
    def __init__(self, plan: Any) -> None:
        pass

    def __call__(self, rows: pa.Table) -> pa.Table:
        if any(path.endswith("deadly.jpg") for path in rows["path"].to_pylist()):
            os._exit(1)
        found = [{**row, "code": row["code"] or "nothing", "image": None} for row in rows.to_pylist()]
        return pa.Table.from_pylist(found, FOUND)


class Masking:
    def __init__(self, plan: Any) -> None:
        pass

    def __call__(self, rows: pa.Table) -> pa.Table:
        done = [error_row(row["id"], row["path"], row["prompt"], row["code"], "", {}) for row in rows.to_pylist()]
        return pa.Table.from_pylist(done, DONE)


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "DetectorWorker", Finding)
    monkeypatch.setattr(dataset, "SegmenterWorker", Masking)
