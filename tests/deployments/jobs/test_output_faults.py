"""A run that dies, or whose storage fails, at any operation: what was listed stays, and the next run completes it.

Every operation of two runs, the second of which redoes errors, is the one at which it happens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.jobs import redoing
from deployments.jobs.output import Output
from deployments.jobs.storage import StorageError
from tests.deployments.jobs.disk import Disk, Fault, Killed, on
from tests.deployments.jobs.made import SETTINGS, bad, good, goods, table

ROOT = "s3://bucket/out/"
FIRST = [table(good("a"), bad("b")), table(good("c"), bad("d"), bad("e"))]
SECOND = [table(good("d"), bad("b", "image_not_found")), goods("e")]
TRUTH = {**dict.fromkeys("abcde"), "b": "image_not_found"}  # id and error code


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redoing, "ERRORS_A_PART", 2)


def run(disk: Disk, batches: list[Any], *, retry_errors: bool, again: bool = False) -> None:
    """A driver; with `again`, one that tries once more what the storage refused."""
    clock = map(float, count(0, 1_500)).__next__  # so that what is retired goes within the run
    with Output.open(on(disk), SETTINGS, retry_errors=retry_errors, clock=clock) as output:
        for batch in batches:
            repeated(partial(output.add, batch), again)
            repeated(output.flush, again)
        repeated(lambda: output.close(complete=True), again)


def repeated(call: Callable[[], None], again: bool) -> None:
    try:
        call()
    except StorageError:
        if not again:
            raise
        call()


def job(disk: Disk, *, again: bool = False) -> None:
    """Both runs, the first only as long as it has something to do."""
    if stored(disk)["images"] < len(TRUTH):
        run(disk, FIRST, retry_errors=False, again=again)
    run(disk, SECOND, retry_errors=True, again=again)


def stored(disk: Disk) -> dict[str, Any]:
    """The manifest; `second`: rows of the second run are in it, so the first was complete."""
    said: dict[str, Any] = json.loads(
        disk.files.get(f"{ROOT}_manifest.json", b'{"complete": false, "parts": [], "images": 0}')
    )
    return said | {"second": said["images"] == 5}


def truth(disk: Disk) -> dict[str, str | None]:
    """Id and error code of every row in the listed files; none is there twice, and the sums are right."""
    said = stored(disk)
    files = [pq.ParquetFile(pa.BufferReader(disk.files[ROOT + part["name"]])) for part in said["parts"]]
    tables = [file.read(["id", "error.code"]) for file in files]
    rows = [row for one in tables for row in one.to_pylist()]
    codes = {row["id"]: row["error"] and row["error"]["code"] for row in rows}
    assert len(codes) == len(rows) == said["images"]
    assert [part["rows"] for part in said["parts"]] == [one.num_rows for one in tables]
    return codes


def test_the_list_is_true_between_any_two_operations() -> None:
    disk = Disk()
    seen: list[dict[str, str | None]] = []
    disk.watch = lambda: seen.append(truth(disk))
    job(disk)
    for before, after in zip(seen, seen[1:], strict=False):
        assert before.keys() <= after.keys()
        assert all(after[id] is None for id, code in before.items() if code is None)
    assert seen[-1] == TRUTH


def test_killed_at_any_operation() -> None:
    for at in count(1):
        disk = Disk(at=at, fault="killed")
        try:
            job(disk)
        except Killed:
            pass
        else:
            break
        committed = truth(disk)
        left = Disk(dict(disk.files))
        job(left)
        assert {id for id, code in committed.items() if code is None} <= truth(left).keys()
        assert truth(left) == TRUTH
        said = stored(left)
        known = {f"{ROOT}{one['name']}" for one in [*said["parts"], *said["retired"]]}
        assert left.files.keys() == {f"{ROOT}_manifest.json", *known}
        assert said["run"] is None
    assert at > 30


@pytest.mark.parametrize(
    ("fault", "again"),
    [("fails before", True), ("fails after", True), ("fails after", False)],
    ids=["goes on", "was done, goes on", "was done, gives up"],
)
def test_the_storage_fails_at_any_operation(fault: Fault, again: bool) -> None:
    for at in count(1):
        disk = Disk(at=at, fault=fault)
        with suppress(StorageError):
            job(disk, again=again)
        if disk.done < at:
            break
        truth(disk)
        job(disk)
        assert truth(disk) == TRUTH
    assert at > 30
