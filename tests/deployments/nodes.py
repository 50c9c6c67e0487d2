"""More nodes for the session's Ray: raylets with object stores of their own, as on other machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

START_S = 120.0


@dataclass(frozen=True, slots=True)
class Node:
    """One node of the cluster.

    Attributes:
        id: Ray's.
        raylet: its process; 0 for the head.
        address: of the raylet, host and port.
    """

    id: str
    raylet: int
    address: tuple[str, int]

    def stored(self) -> tuple[int, int]:
        """Objects, and their bytes, that its store has taken in so far: made there, or fetched from elsewhere."""
        from ray._private.internal_api import node_stats

        stats = node_stats(*self.address, include_memory_info=False).store_stats
        return int(stats.cumulative_created_objects), int(stats.cumulative_created_bytes)


@contextmanager
def more_nodes(address: str, *names: str, num_cpus: int = 2) -> Iterator[Mapping[str, Node]]:
    """Nodes that join the Ray at `address` while the block lasts, by name; each has 1 of a resource of its name."""
    ray = str(Path(sys.executable).parent / "ray")
    command = [ray, "start", "--address", address, "--block", "--num-cpus", str(num_cpus)]
    command += ["--object-store-memory", "100000000"]

    def start(name: str) -> subprocess.Popen[bytes]:
        # A folder for each, as machines have: two that start at once would choose the same names of sockets.
        folder = stack.enter_context(TemporaryDirectory(prefix="t2m", ignore_cleanup_errors=True))
        resources = json.dumps({name: 1})
        return stack.enter_context(_process([*command, "--temp-dir", folder, "--resources", resources]))

    with ExitStack() as stack:
        started = {name: start(name) for name in names}
        yield {name: _joined(name, process) for name, process in started.items()}


def head() -> Node:
    """The node that the session's Ray began with."""
    node = _node("node:__internal_head__", 0)
    assert node is not None
    return node


def until(condition: Callable[[], Any], process: subprocess.Popen[Any]) -> Any:
    """The condition's first value that counts as true, while the process lives."""
    end = time.monotonic() + START_S
    while not (value := condition()):
        assert process.poll() is None, "the process ended before"
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


def ancestors(pid: int) -> set[int]:
    """The processes that started `pid`, down to the first, and itself not."""
    found: set[int] = set()
    with suppress(OSError):
        while pid > 1:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            found.add(pid)
    return found


@contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _joined(name: str, process: subprocess.Popen[bytes]) -> Node:
    def joined() -> Node | None:
        raylets = [pid for pid in _named("raylet") if process.pid in ancestors(pid)]
        return _node(name, raylets[0]) if raylets else None

    node: Node = until(joined, process)
    return node


def _node(resource: str, raylet: int) -> Node | None:
    """The node that has `resource`, once it has joined."""
    import ray

    for one in ray.nodes():
        if one["Alive"] and resource in one["Resources"]:
            return Node(one["NodeID"], raylet, (one["NodeManagerAddress"], one["NodeManagerPort"]))
    return None


def _named(name: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            if path.read_text().strip() == name:
                found.append(int(path.parent.name))
    return found
