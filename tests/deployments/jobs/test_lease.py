"""Who may write: one run at a time, the next at once after a process that is gone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from deployments.jobs import lease
from deployments.jobs.output import Output, OutputError
from deployments.jobs.storage import place
from tests.deployments.jobs.made import SETTINGS, goods, listed, manifest

NOW = 1_000_000.0


def opened(folder: Path, **how: Any) -> Output:
    return Output.open(place(folder), SETTINGS, clock=lambda: NOW, **how)


def held_by(folder: Path, **run: Any) -> None:
    """The manifest says that this run writes; by default one of a process of this machine that lives, and is not us."""
    said = manifest(folder)
    mine = lease.begin(NOW)
    lease.end(mine)
    parent = os.getppid()
    here = {"host": mine.host, "where": mine.where, "pid": parent, "started": lease.started(parent)}
    said["run"] = {"id": "theirs", "heartbeat": NOW - 3600, **here, **run}
    (folder / "_manifest.json").write_text(json.dumps(said), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An output with row a, and a file that a run did not come to list."""
    with opened(tmp_path) as output:
        output.add(goods("a"))
    (tmp_path / "parts" / "stray.parquet").touch()
    return tmp_path


@pytest.fixture
def unreaped() -> Iterator[dict[str, Any]]:
    """A process that has ended, of which its parent took no notice yet."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        run = {"pid": process.pid, "started": lease.started(process.pid)}
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield run


def strays(folder: Path) -> bool:
    return (folder / "parts" / "stray.parquet").exists()


def test_a_run_that_lives_is_not_disturbed(folder: Path) -> None:
    held_by(folder)
    before = manifest(folder)
    for overwrite in (False, True):
        with pytest.raises(
            OutputError, match=f"written by process {os.getppid()} on {socket.gethostname()}.*3600 s ago"
        ):
            opened(folder, overwrite=overwrite)
    assert (manifest(folder), strays(folder)) == (before, True)


def test_nor_one_of_this_process(folder: Path) -> None:
    with opened(folder) as first:
        with pytest.raises(OutputError, match=f"written by process {os.getpid()}"):
            opened(folder)
        first.add(goods("b"))
    assert sorted(row["id"] for row in listed(folder)) == ["a", "b"]


@pytest.mark.parametrize(
    "run",
    [
        {"pid": os.getpid(), "started": None},  # the number of the process in a container that was started again
        {"started": "1"},
        {"pid": 2**22 + 1, "started": None},
    ],
    ids=["our number", "a number given again", "no such process"],
)
def test_a_process_that_is_gone_is_followed_at_once(run: dict[str, Any], folder: Path) -> None:
    held_by(folder, **run, heartbeat=NOW)
    with opened(folder) as output:
        assert output.done == {"a"}
        assert not strays(folder)


def test_so_is_one_that_nobody_reaped(unreaped: dict[str, Any], folder: Path) -> None:
    held_by(folder, **unreaped, heartbeat=NOW)
    opened(folder).close(complete=True)


@pytest.mark.parametrize("elsewhere", [{"host": "other"}, {"where": "another start, or another container"}])
def test_elsewhere_the_heartbeat_tells(elsewhere: dict[str, str], folder: Path) -> None:
    held_by(folder, **elsewhere, pid=2**22 + 1, heartbeat=NOW - 119)
    with pytest.raises(OutputError, match="119 s ago"):
        opened(folder)
    held_by(folder, **elsewhere, heartbeat=NOW - 121)
    with opened(folder) as output:
        assert output.done == {"a"}
        # It may live all the same and list the file yet, so that is kept for an hour.
        assert strays(folder)
        assert [one["name"] for one in manifest(folder)["retired"]] == ["parts/stray.parquet"]


def test_who_was_taken_over_changes_nothing(folder: Path) -> None:
    first = opened(folder)
    first.add(goods("b"))
    with opened(folder, take_over=True) as second:
        second.add(goods("c"))
        second.flush()
        before = manifest(folder)
        for attempt in (first.flush, lambda: first.close(complete=True)):
            with pytest.raises(OutputError, match="not this run's any more"):
                attempt()
        assert manifest(folder) == before
        second.add(goods("b"))
    assert sorted(row["id"] for row in listed(folder)) == ["a", "b", "c"]


def test_what_stopped_the_job_is_told_rather(folder: Path) -> None:
    def job() -> None:
        with opened(folder) as first:
            opened(folder, take_over=True).close(complete=False)
            first.add(goods("b"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        job()


def test_a_heart_beats_and_writes_what_was_held_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.01)
    asked, enough = count(), Event()

    def clock() -> float:
        """Seconds, a second a question; every commit asks."""
        second = next(asked)
        if second == 8:
            enough.set()
        return float(second)

    with Output.open(place(tmp_path), SETTINGS, clock=clock) as output:
        output.add(goods("a"))
        assert enough.wait(20)
        said = manifest(tmp_path)
        assert (said["images"], said["run"]["heartbeat"] > 2) == (1, True)
