"""One writer at a time: who writes an output, and whether they still live."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Literal
from uuid import uuid4

from deployments.jobs.manifest import Run

HEARTBEAT_S = 30.0  # a run says this often that it lives
PATIENCE_S = 120.0  # a run elsewhere that has not said so for this long is taken for dead

mine: set[str] = set()  # the open runs of this process


def begin(now: float) -> Run:
    """A run of this process; its id, sorted, tells which came later."""
    name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}-{uuid4().hex[:8]}"
    mine.add(name)
    return Run(name, socket.gethostname(), os.getpid(), _where(), started(os.getpid()), now)


def end(run: Run) -> None:
    """The run of this process writes no more."""
    mine.discard(run.id)


def state(run: Run, now: float) -> Literal["alive", "dead", "silent"]:
    """Whether a run that has not ended lives. Dead: its process is gone for certain; silent: nothing is heard of it.

    On the same machine the process is looked up. Elsewhere only the heartbeat tells, by two clocks: if they differ by
    more than `PATIENCE_S`, it errs, and who comes second finds at the next commit that the output is no longer theirs.
    """
    if run.id in mine:
        return "alive"
    if os.name != "nt" and run.host == socket.gethostname() and run.where == _where():
        return "alive" if run.pid != os.getpid() and _lives(run) else "dead"
    return "alive" if now - run.heartbeat < PATIENCE_S else "silent"


def _lives(run: Run) -> bool:
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        pass
    return run.started is None or started(run.pid) in (None, run.started)


def _where() -> str | None:
    """This start of this machine, and the space in which process numbers count: containers have their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def started(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; "gone" if it waits to be reaped; None where there is no telling."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return "gone" if fields[0] in "ZX" else fields[19]
