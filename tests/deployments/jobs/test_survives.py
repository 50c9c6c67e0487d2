"""What a job survives: its driver killed, a node of the cluster killed. Each image once, none lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from deployments.jobs import read_results
from tests.deployments.jobs.conftest import PROMPT, drawn
from tests.deployments.nodes import ancestors, more_nodes, until

pytestmark = pytest.mark.nightly

IMAGES = 128  # eight blocks


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for number in range(IMAGES):
        drawn(number, 96, 128).save(folder / f"{number:03}.png")
    return folder


@contextmanager
def job(source: Path, output: Path, address: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`text2mask batch` in a process of its own, which writes what is done at once."""
    command = [sys.executable, "-m", "deployments.cli", "batch", str(source), PROMPT, "--out", str(output)]
    # Boxes alone: half of the models to load.
    options = ("--ray-address", address, "--masks", "none", "--commit-every", "0.1", "--progress", "json", *options)
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def last_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a job says at its end."""
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    assert process.wait() == 0
    told: dict[str, Any] = json.loads(lines[-1])
    return told


def committed(output: Path) -> int:
    with suppress(FileNotFoundError):
        return int(json.loads((output / "_manifest.json").read_text())["images"])
    return 0


def workers() -> list[int]:
    """The processes of both pools, of any job."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().startswith(b"ray::MapWorker"):
                found.append(int(path.parent.name))
    return found


def test_neither_a_killed_driver_nor_a_dead_node_loses_or_doubles_an_image(
    many: Path, tmp_path: Path, ray_address: str
) -> None:
    output = tmp_path / "labels"
    replicas = ("--detector-replicas", "2", "--segmenter-replicas", "2")  # Ray spreads them over the nodes
    with more_nodes(ray_address, "second") as nodes:
        raylet = nodes["second"].raylet
        with job(many, output, ray_address, *replicas) as process:
            until(lambda: committed(output), process)
            process.send_signal(signal.SIGKILL)
            process.wait()
        before = committed(output)
        assert 0 < before < IMAGES
        with job(many, output, ray_address, *replicas) as process:
            until(lambda: committed(output) > before, process)
            assert [pid for pid in workers() if raylet in ancestors(pid)], "nothing of the job is on that node"
            assert committed(output) < IMAGES
            os.kill(raylet, signal.SIGKILL)
            told = last_line(process)
    assert (told["earlier"], told["done"]) == (before, IMAGES - before)
    names = [row.path.rpartition("/")[2] for row in read_results(output)]
    assert sorted(names) == [f"{number:03}.png" for number in range(IMAGES)]
    assert all(row.error is None for row in read_results(output))
