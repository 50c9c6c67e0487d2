"""What a replica has been given to do and how long it took, counted from its start: for `deployments.autoscaling`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Work:
    """An item in the stage: what is left of its cost; None while that is not known."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left: int | None = None


class StageLoad:
    """Of one model in one replica. `cpu`, `begin` and `end` are told from other threads, all else from the event loop.

    Args:
        cpu_threads: how many do the CPU work beside the model.
    """

    def __init__(self, cpu_threads: int) -> None:
        self._cpu_threads = cpu_threads
        self._present: set[Work] = set()
        self._calls = 0
        self._items = 0
        self._came = 0
        self._lock = threading.Lock()  # for what follows
        self._done = 0
        self._model_s = 0.0
        self._cpu_s = 0.0
        self._pass: tuple[float, int] | None = None

    def call(self) -> None:
        """Somebody asked for what is kept."""
        self._calls += 1

    @contextmanager
    def item(self) -> Iterator[Work]:
        """An item is in the stage while the block lasts."""
        self._calls += 1
        work = Work()
        self._present.add(work)
        try:
            yield work
        finally:
            self._present.discard(work)

    def size(self, work: Work, cost: int) -> None:
        """What it costs is known now."""
        work.left = cost
        self._items += 1
        self._came += cost

    def cpu(self, seconds: float) -> None:
        """One thread was busy beside the model."""
        with self._lock:
            self._cpu_s += seconds / self._cpu_threads

    def begin(self, cost: int) -> None:
        """A forward pass of this much begins."""
        with self._lock:
            self._pass = time.perf_counter(), cost

    def end(self) -> None:
        """It is through, or failed."""
        with self._lock:
            assert self._pass is not None
            began, cost = self._pass
            self._model_s += time.perf_counter() - began
            self._done += cost
            self._pass = None

    def report(self) -> dict[str, float]:
        """By name: `calls`, cost that `came` and was `done`, seconds that model and CPUs were busy, `model_s` and
        `cpu_s`, all since the start; and the cost that is `waiting` now.

        Waiting is what another replica could have: all that is here, without the pass that runs, or without the largest
        item, whose parts follow one another. What is not prepared yet counts as others did on average.
        """
        mean = self._came / self._items if self._items else 1.0
        here = [mean if work.left is None else work.left for work in self._present]
        with self._lock:
            began, running = self._pass or (0.0, 0)
            model_s = self._model_s + (time.perf_counter() - began if running else 0.0)
            cpu_s, done = self._cpu_s, self._done
        return {
            "calls": self._calls,
            "came": self._came,
            "done": done,
            "waiting": max(0.0, sum(here) - max(running, *here)) if here else 0.0,
            "model_s": model_s,
            "cpu_s": cpu_s,
        }
