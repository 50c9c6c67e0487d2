"""How long a worker's models and CPU threads were busy: what a job shows of each stage."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from uuid import uuid4

from deployments.metrics import ITEMS, STAGE, Metric


class BusyMeter:
    """Adds up the steps of this process's stages, from now on; a metrics sink."""

    def __init__(self) -> None:
        self._worker = uuid4().hex
        self._since = time.time()
        self._lock = threading.Lock()
        self._seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._items: dict[str, float] = defaultdict(float)

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        with self._lock:
            if metric is STAGE:
                self._seconds[labels["stage"]][labels["step"]] += value
            elif metric is ITEMS:
                self._items[labels["stage"]] += value

    def reading(self) -> str:
        """So far, as JSON; `Reading.parse` reads it."""
        with self._lock:
            return json.dumps(
                {
                    "worker": self._worker,
                    "since": self._since,
                    "time": time.time(),
                    "seconds": self._seconds,
                    "items": self._items,
                }
            )


@dataclass(frozen=True, slots=True)
class Reading:
    """What one worker had done by one moment.

    Attributes:
        worker: its process.
        since: when it was made, Unix time in seconds.
        time: of the reading, Unix time in seconds.
        seconds: busy in each step of each stage, since then.
        items: of each stage.
    """

    worker: str
    since: float
    time: float
    seconds: dict[str, dict[str, float]]
    items: dict[str, float]

    @classmethod
    def parse(cls, text: str) -> Reading:
        return cls(**json.loads(text))
