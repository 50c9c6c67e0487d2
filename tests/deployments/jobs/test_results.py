"""Readers see what was true when they began, and need no program of ours."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.dataset
import pytest

from deployments.jobs.output import Output, OutputError
from deployments.jobs.results import live_parts, read_results
from deployments.jobs.rows import RowError
from deployments.jobs.storage import place
from tests.deployments.jobs.made import SETTINGS, bad, good, goods, table
from tests.pipeline.formats.scene import result

HOUR = 3600.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rows a and b, and c and d with errors, in several files."""
    with Output.open(place(tmp_path / "o ü %20"), SETTINGS, clock=lambda: 0) as output:
        for names in ("ac", "bd"):
            output.add(table(good(names[0]), bad(names[1])))
            output.flush()
    return tmp_path / "o ü %20"


def test_rows_come_back(folder: Path) -> None:
    rows = {row.id: row for row in read_results(folder)}
    assert sorted(rows) == [*"abcd"]
    assert rows["a"].result == rows["b"].result == result()
    assert rows["c"].error == RowError("image_undecodable", "it cannot be read")
    assert (rows["a"].path, rows["a"].prompt) == ("/photos/a.png", "red circle")


def test_other_readers_take_the_parts(folder: Path) -> None:
    parts = live_parts(folder)
    assert pyarrow.dataset.dataset(parts).to_table(["id"])["id"].to_pylist() == ["a", "c", "b", "d"]
    frame = pd.concat(map(pd.read_parquet, parts))
    assert sorted(frame["id"]) == [*"abcd"]
    assert frame.set_index("id")["error"].isna().to_dict() == {"a": True, "b": True, "c": False, "d": False}


def test_a_reader_goes_on_while_all_is_replaced(folder: Path) -> None:
    rows, parts = read_results(folder), live_parts(folder)
    first = next(rows)
    with Output.open(place(folder), SETTINGS, retry_errors=True, clock=lambda: HOUR) as output:
        output.add(goods("c"))
    with Output.open(place(folder), SETTINGS, overwrite=True, clock=lambda: 2 * HOUR) as output:
        output.add(goods("z"))
    later = [first, *rows]
    assert [(row.id, row.error is None) for row in later] == [("a", True), ("c", False), ("b", True), ("d", False)]
    assert len(pyarrow.dataset.dataset(parts).to_table()) == 4
    assert [row.id for row in read_results(folder)] == ["z"]


def test_one_who_comes_back_too_late_is_told(folder: Path) -> None:
    rows = read_results(folder)
    Output.open(place(folder), SETTINGS, overwrite=True, clock=lambda: HOUR).close(complete=False)
    Output.open(place(folder), SETTINGS, clock=lambda: 2 * HOUR + 1).close(complete=False)
    with pytest.raises(OutputError, match="is not there"):
        next(rows)


def test_no_output_is_told_at_once(tmp_path: Path) -> None:
    for read in (read_results, live_parts):
        with pytest.raises(OutputError, match="no output of a job"):
            read(tmp_path / "nothing")
