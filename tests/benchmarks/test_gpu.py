"""The benchmark for GPUs runs on a CPU, with the embedded architectures: a GPU is too rare to find mistakes with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu import report
from benchmarks.gpu.measure import Bench
from benchmarks.gpu.models import Scene


@pytest.mark.nightly
def test_every_kind_of_stage(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = []
    for stage in ("encoder vit_b", "detector", "pipeline vit_b"):
        benchmark.run_stage(stage, "cpu", tiny=True, seconds=0.0, emit=rows.append)
    assert [row for row in rows if row["error"] or row["note"]] == []
    assert all(row["rate"] > 0 for row in rows)
    arms = {(row["stage"], row["arm"]) for row in rows}
    assert {(stage, "official") for stage, _ in arms} < arms
    lower = [row for row in rows if row["arm"].startswith("bfloat16")]
    assert len(lower) >= 8
    assert all(0 < row["difference"] < 0.05 for row in lower)
    report.show(report.describe("cpu"), rows, tiny=True)
    assert "pipeline vit_b" in capsys.readouterr().out


def test_a_failing_arm_and_a_wrong_one_are_rows_too() -> None:
    rows: list[dict[str, Any]] = []
    bench = Bench(Scene("cpu", tiny=True, seconds=0.0), "detector", rows.append)

    def broken() -> Any:
        raise torch.OutOfMemoryError("no room\nand its whole story")

    assert not bench.arm("broken", 8, broken)
    assert not bench.arm("wrong", 1, lambda: lambda: 0.5, differs=lambda answer: abs(answer - 1.0), tolerance=0.1)
    assert bench.arm("right", 4, lambda: lambda: 1.0, differs=lambda answer: abs(answer - 1.0), tolerance=0.1)
    assert [row["rate"] is None for row in rows] == [True, True, False]
    assert rows[0]["error"] == "OutOfMemoryError: no room"
    assert "differ by 5.0e-01" in rows[1]["error"]


def test_a_stage_that_takes_too_long_is_a_row_too() -> None:
    (row,) = benchmark.in_own_process("detector", "cpu", tiny=True, seconds=0.0, limit_s=0.01)
    assert (row["stage"], row["error"]) == ("detector", "stopped after 0 s")
