"""What a replica has been given to do and how long it took, counted from its start: for `deployments.autoscaling`."""

from __future__ import annotations

import threading


class StageLoad:
    """Of one model in one replica. `cpu` and `forward` are told from other threads, all else from the event loop.

    Args:
        cpu_threads: how many do the CPU work beside the model.
    """

    def __init__(self, cpu_threads: int) -> None:
        self._cpu_threads = cpu_threads
        self._lock = threading.Lock()
        self._calls = 0
        self._unsized = 0
        self._items = 0
        self._came = 0
        self._done = 0
        self._model_s = 0.0
        self._cpu_s = 0.0

    def call(self) -> None:
        """Somebody asked, perhaps for what is kept."""
        self._calls += 1

    def enter(self) -> None:
        """An item came; what it costs is not known yet."""
        self._calls += 1
        self._unsized += 1

    def size(self, cost: int | None) -> None:
        """An item that came costs this much, or, for None, nothing: it was refused."""
        self._unsized -= 1
        if cost is not None:
            self._items += 1
            self._came += cost

    def cpu(self, seconds: float) -> None:
        """One thread was busy beside the model."""
        with self._lock:
            self._cpu_s += seconds / self._cpu_threads

    def forward(self, seconds: float, cost: int) -> None:
        """The model was busy with this much."""
        with self._lock:
            self._model_s += seconds
            self._done += cost

    def report(self, queued: int) -> dict[str, float]:
        """By name: `calls`, cost that `came` and was `done`, seconds that model and CPUs were busy, `model_s` and
        `cpu_s`, all since the start; and the cost that is `waiting` now.

        Args:
            queued: cost that waits for the model. What is still to be prepared is added as the mean of what came.
        """
        mean = self._came / self._items if self._items else 1.0
        with self._lock:
            model_s, cpu_s, done = self._model_s, self._cpu_s, self._done
        return {
            "calls": self._calls,
            "came": self._came + self._unsized * mean,
            "done": done,
            "waiting": queued + self._unsized * mean,
            "model_s": model_s,
            "cpu_s": cpu_s,
        }
