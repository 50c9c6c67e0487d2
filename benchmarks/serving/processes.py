"""Starting and stopping an arm, and what its processes use. Linux only."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from deployments.launch import free_port

READY_S = 60
TICKS = os.sysconf("SC_CLK_TCK")


class NotStartedError(Exception):
    """An arm is not there to be measured."""


class Arm:
    """A running arm: `url` of those with HTTP; `say` for those without. One of ours that is `metered` shows its metrics
    at `metrics_port`; `environ` is added to its environment."""

    def __init__(self, name: str, *, metered: bool = False, environ: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self.metrics_port = free_port() if metered else 0
        self.url = f"http://127.0.0.1:{self.port}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.worker", name, str(self.port), str(self.metrics_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environ or {})},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asked, self._answers = self._process.stdin, self._process.stdout
        try:
            if name in ("b", "c"):
                self._wait_for_http(name)
            else:
                self._expect_ready(name)
        except BaseException:
            self.close()
            raise

    def say(self, line: str) -> str:
        print(line, file=self._asked, flush=True)
        return self._answers.readline()

    def _expect_ready(self, name: str) -> None:
        if self._answers.readline().strip() != "ready":
            raise NotStartedError(f"arm {name} did not start")

    def _wait_for_http(self, name: str) -> None:
        end = time.monotonic() + READY_S
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/healthz").status_code == 200:
                    return
            time.sleep(0.2)
        raise NotStartedError(f"arm {name} did not start")

    def pids(self) -> list[int]:
        """The process and all its descendants: Ray's leave its group, but not its tree."""
        parents: dict[int, list[int]] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parents.setdefault(int(fields(path)[1]), []).append(int(path.parent.name))
        tree = [self._process.pid]
        for pid in tree:
            tree.extend(parents.get(pid, ()))
        return tree

    def cpu_seconds(self) -> float:
        """Of the whole tree so far, those that have ended in it included."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += sum(map(int, fields(Path(f"/proc/{pid}/stat"))[11:15]))
        return total / TICKS

    def close(self) -> None:
        self._asked.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(90)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what an end by itself has left
        self._process.wait()


def fields(stat: Path) -> list[str]:
    """Of /proc/PID/stat, those after the name: state, parent, ..."""
    return stat.read_text().rpartition(")")[2].split()


@contextmanager
def running_arm(name: str, *, metered: bool = False, environ: Mapping[str, str] | None = None) -> Iterator[Arm]:
    arm = Arm(name, metered=metered, environ=environ)
    try:
        yield arm
    finally:
        arm.close()
