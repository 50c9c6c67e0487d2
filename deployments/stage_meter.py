"""How long the items of a stage wait and work, and how full its batches are: as metrics, as spans of a trace, and
summed for the autoscaler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deployments import metrics, tracing
from deployments.stage_load import StageLoad
from deployments.stage_settings import StageSettings


@dataclass(frozen=True, slots=True)
class Waited:
    """An item of a batch: since when it waited (`time.perf_counter()`), and the trace that it belongs to."""

    since: float
    trace: Any


class StageMeter:
    """Of one model in one replica. Called from the event loop, the model thread and the CPU pool.

    Args:
        stage, model: the labels.
        settings: against whose limits a batch is full.
    """

    def __init__(self, stage: str, model: str, settings: StageSettings) -> None:
        self._labels = {"stage": stage, "model": model}
        self.load = StageLoad(settings.cpu_threads)
        self.limit(settings)

    def limit(self, settings: StageSettings) -> None:
        """Batches that end from now on are measured against these."""
        self._most = (settings.max_batch_size, settings.max_batch_cost)  # at once: the model thread reads it

    def step(self, step: str, begin: float, end: float, trace: Any) -> None:
        """An item's `prepare` or `finish`, from `begin` to `end` (`time.perf_counter()`)."""
        self.load.cpu(end - begin)
        metrics.STAGE.record(end - begin, step=step, **self._labels)
        tracing.tell(step, trace, begin, end)

    @contextmanager
    def forward(self, cost: int) -> Iterator[None]:
        """A forward pass of this much runs while the block lasts."""
        self.load.begin(cost)
        try:
            yield
        finally:
            self.load.end()

    def batch(self, items: Sequence[Waited], cost: int, begin: float, end: float) -> None:
        """A forward pass of `items`. Each of their traces gets its wait, and the whole pass."""
        max_items, max_cost = self._most
        fill = min(1.0, len(items) / max_items)  # formed under an earlier, higher limit, it is full
        if max_cost is not None:
            fill = max(fill, min(1.0, cost / max_cost))  # one that costs more than the limit runs alone
        metrics.STAGE.record(end - begin, step="forward", **self._labels)
        metrics.ITEMS.record(len(items), **self._labels)
        metrics.COST.record(cost, **self._labels)
        metrics.BATCH_ITEMS.record(len(items), **self._labels)
        metrics.BATCH_FILL.record(fill, **self._labels)
        for item in items:
            metrics.QUEUE.record(begin - item.since, **self._labels)
            tracing.tell("queue", item.trace, item.since, begin)
            tracing.tell("forward", item.trace, begin, end, batch_items=len(items), batch_cost=cost)

    def dropped(self, reason: str) -> None:
        """An item that is not computed: `deadline` or `cancelled`."""
        metrics.DROPPED.record(1, reason=reason, **self._labels)
