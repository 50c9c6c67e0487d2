"""A short run of every target with a fixed seed; `make fuzz` is the long one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.corpus import seeds
from tests.fuzz.json_mutator import changed
from tests.fuzz.planted import PLANTED
from tests.fuzz.targets import IS_JSON, TARGETS

ROOT = Path(__file__).parents[2]
RUNS = 1500


def fuzz(out: Path, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit status, and what is reported of each target."""
    pytest.importorskip("atheris")
    command = [sys.executable, "-m", "tests.fuzz.run", "--out", str(out), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert (out / "report.json").exists(), done.stderr
    return done.returncode, {one["target"]: one for one in json.loads((out / "report.json").read_text())}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return fuzz(tmp_path_factory.mktemp("fuzz"), "--runs", str(RUNS))[1]


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found(run: dict[str, dict[str, Any]], target: str) -> None:
    assert run[target]["findings"] == []
    assert run[target]["inputs"] >= RUNS
    assert run[target]["edges"] > 0  # the parser was instrumented, and reached


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_are_taken(target: str) -> None:
    for seed in seeds(target):
        TARGETS[target](seed)


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_and_repeated(tmp_path: Path, fault: str) -> None:
    status, report = fuzz(tmp_path, fault, "--runs", "20000", "--input-seconds", "2", "--memory-mb", "300")
    assert status == 1
    (finding,) = report[fault]["findings"]
    _, _, module, name, flag, file = finding.split()
    assert (module, name, flag) == ("tests.fuzz.run", fault, "--input")
    if fault == "planted_raise":
        command = [sys.executable, "-m", module, name, flag, file]
        again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert "KeyError: 'not documented'" in again.stderr


@pytest.mark.parametrize("target", sorted(IS_JSON))
def test_changed_json_is_other_json_and_the_same_each_time(target: str) -> None:
    def give_up(data: bytes, _: int) -> bytes:
        return b"bytes"

    for seed in seeds(target):
        made = [changed(seed, 4096, number, give_up) for number in range(50)]
        assert made == [changed(seed, 4096, number, give_up) for number in range(50)]
        assert len({one for one in made if one != b"bytes"} - {seed}) > 10
