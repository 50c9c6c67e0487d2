"""Memory of other processes while something happens, and which processes those are. Linux only."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

SAMPLE_S = 0.05


def pss(pids: list[int]) -> float:
    """Memory of the processes together, in MB: their own, and their share of what they share."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def listeners(port: int) -> list[int]:
    """The processes that listen on `port`."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # it has just been closed
            if os.readlink(link) in sockets:
                found.add(int(link.parts[2]))
    return sorted(found)


def ingress_beside(proxy: int) -> list[int]:
    """The ingress replica of the Ray node that the Serve proxy belongs to."""

    def parent(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]

    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            pid = int(path.parent.name)
            if path.read_bytes().startswith(b"ray::ServeReplica:text2mask:ingress") and parent(pid) == parent(proxy):
                found.append(pid)
    return found


class Watch:
    """Highest memory of each group of processes while the block lasts."""

    def __init__(self, groups: dict[str, list[int]]) -> None:
        self._groups, self._ended = groups, threading.Event()
        self.before = self.now()
        self.peak = dict(self.before)
        self._thread = threading.Thread(target=self._sample)

    def now(self) -> dict[str, float]:
        return {name: pss(pids) for name, pids in self._groups.items()}

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.peak = {name: max(self.peak[name], value) for name, value in self.now().items()}

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
