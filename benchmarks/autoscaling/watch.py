"""Replicas over time, by Serve's own account."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds since the watch began; of each deployment, replicas that ran, and those with the ones that started."""

    at: float
    running: Mapping[str, int]
    held: Mapping[str, int]


class Watch:
    """Looks at the deployments of an application while the block lasts.

    Args:
        app: the application's name.
        deployments: names to look at.
    """

    def __init__(self, app: str, deployments: Sequence[str]) -> None:
        self._app, self._deployments = app, deployments
        self.samples: list[Sample] = []
        self.began = time.perf_counter()
        self._over = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def running(self, deployment: str) -> int:
        """At the last look."""
        return self.samples[-1].running[deployment] if self.samples else 0

    def replica_seconds(self, deployment: str, begin: float, end: float) -> float:
        """What replicas held, from their start on, between two moments."""
        return sum(
            one.held[deployment] * max(0.0, min(following.at, end) - max(one.at, begin))
            for one, following in pairwise(self.samples)
        )

    def turns(self, deployment: str, begin: float, end: float) -> int:
        """How often the number turned from growing to shrinking, or back."""
        held = [one.held[deployment] for one in self.samples if begin <= one.at <= end]
        steps = [after - before for before, after in pairwise(held) if after != before]
        return sum(before * after < 0 for before, after in pairwise(steps))

    def _look(self) -> None:
        try:
            self._look_on()
        except Exception as error:
            self._error = error

    def _look_on(self) -> None:
        from ray import serve

        while not self._over.wait(EVERY_S):
            found = serve.status().applications[self._app].deployments
            at = time.perf_counter() - self.began
            running, held = {}, {}
            for name in self._deployments:
                states = {str(state): count for state, count in found[name].replica_states.items()}
                running[name] = states.get("RUNNING", 0)
                held[name] = running[name] + states.get("STARTING", 0)
            self.samples.append(Sample(at, running, held))


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for it. Raises TimeoutError."""
    end = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > end:
            raise TimeoutError(what)
        time.sleep(EVERY_S)
