"""Batches that form when the model is free, not when a timer fires.

An item that finds the model idle starts at once, alone. Items that arrive while a batch runs wait for it, and the next
batch takes as many of them as fit. So there is no added wait when idle and there are full batches under load, without a
window to tune. (`@serve.batch` closes a batch while the previous one still runs: under load it runs batches of one.)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from deployments import tracing
from deployments.logs import LOGGER
from deployments.stage_meter import StageMeter, Waited
from pipeline.errors import StageError

logger = logging.getLogger(LOGGER)

Item = TypeVar("Item")
Raw = TypeVar("Raw")
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Raw]):
    item: Item
    cost: int
    deadline: float | None
    future: asyncio.Future[Raw]
    since: float  # time.perf_counter()
    trace: Any


class Batcher(Generic[Item, Raw]):
    """Runs `forward` on batches of items that share a key, on one thread of its own.

    Keys take turns, one batch each, so that no key starves; within a key items keep their order. An item that costs
    more than `max_batch_cost` runs alone. Items cancelled or past their deadline are dropped just before compute. If
    `forward` raises, the items of that batch run again one by one: a bad item fails alone.

    Args:
        forward: a batch of items -> one outcome each, in order; an outcome that is a `StageError` fails that item only.
        max_batch_size: most items in a batch.
        max_batch_cost: most summed cost in a batch, in the unit that the caller submits; None for no such limit.
        clock: Unix time in seconds, against which deadlines are read.
        meter: is told of every batch and of what was dropped.
    """

    def __init__(
        self,
        forward: Callable[[Sequence[Item]], Sequence[Raw | StageError]],
        *,
        max_batch_size: int,
        max_batch_cost: int | None = None,
        clock: Callable[[], float] = time.time,
        meter: StageMeter | None = None,
    ) -> None:
        if max_batch_size < 1 or (max_batch_cost is not None and max_batch_cost < 1):
            raise ValueError("max_batch_size and max_batch_cost must be at least 1")
        self._forward = forward
        self._max_size = max_batch_size
        self._max_cost = max_batch_cost
        self._clock = clock
        self._meter = meter
        self._queues: OrderedDict[Hashable, deque[_Waiting[Item, Raw]]] = OrderedDict()  # in the order of their turns
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the model thread and wait. For warm-up, before the first `submit`: it blocks the loop."""
        return self._thread.submit(function).result()

    async def submit(self, item: Item, *, key: Hashable = None, cost: int = 1, deadline: float | None = None) -> Raw:
        """The outcome of `item`. Cancelling the caller takes the item out of the queue.

        Args:
            key: only items of equal keys share a batch.
            cost: this item's share of `max_batch_cost`.
            deadline: Unix time in seconds after which the item is not computed any more.

        Raises:
            StageError: the item's own refusal, `deadline_exceeded`, `cancelled` (closed), or `internal`.
        """
        if self._closed:
            raise _shutting_down()
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Item, Raw] = _Waiting(
            item, cost, deadline, loop.create_future(), time.perf_counter(), tracing.here()
        )
        self._queues.setdefault(key, deque()).append(waiting)
        if self._worker is None:
            # The task starts after everything that is ready now, so items submitted together share a batch.
            self._worker = loop.create_task(self._work())
        return await waiting.future

    async def close(self) -> None:
        """Finish the batch that runs, fail what waits with `cancelled`, refuse what comes. Idempotent."""
        self._closed = True
        for queue in self._queues.values():
            for waiting in queue:
                if not waiting.future.done():
                    waiting.future.set_exception(_shutting_down())
        self._queues.clear()
        if self._worker is not None:
            await asyncio.wait({self._worker})
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while batch := self._next_batch():
                outcomes = await loop.run_in_executor(self._thread, self._compute, batch)
                for waiting, outcome in zip(batch, outcomes, strict=True):
                    if waiting.future.done():  # cancelled while it was computed
                        continue
                    if isinstance(outcome, StageError):
                        waiting.future.set_exception(outcome)
                    else:
                        waiting.future.set_result(outcome)
        finally:
            self._worker = None

    def _next_batch(self) -> list[_Waiting[Item, Raw]]:
        """The batch of the key whose turn it is; empty when nothing waits."""
        while self._queues:
            key, queue = next(iter(self._queues.items()))
            batch = self._fill(queue)
            if queue:
                self._queues.move_to_end(key)
            else:
                del self._queues[key]
            if batch:
                return batch
        return []

    def _fill(self, queue: deque[_Waiting[Item, Raw]]) -> list[_Waiting[Item, Raw]]:
        batch: list[_Waiting[Item, Raw]] = []
        cost = 0
        while queue and len(batch) < self._max_size:
            waiting = queue[0]
            if waiting.future.done():
                self._dropped("cancelled")
                queue.popleft()
            elif self._expired(waiting):
                self._dropped("deadline")
                queue.popleft().future.set_exception(_too_late())
            elif batch and self._max_cost is not None and cost + waiting.cost > self._max_cost:
                break
            else:
                batch.append(queue.popleft())
                cost += waiting.cost
        return batch

    def _compute(self, batch: list[_Waiting[Item, Raw]]) -> list[Raw | StageError]:
        """On the model thread. Never raises: whatever happens, each item gets an outcome."""
        try:
            return self._run(batch)
        except BaseException as error:  # also SystemExit from a library: nobody may wait for ever
            if len(batch) == 1:
                return [_as_stage_error(error)]
            logger.warning("A batch of %d failed with %s; its items run one by one.", len(batch), type(error).__name__)
        return [self._run_alone(waiting) for waiting in batch]

    def _run_alone(self, waiting: _Waiting[Item, Raw]) -> Raw | StageError:
        if waiting.future.done():
            self._dropped("cancelled")
            return StageError("cancelled", "the caller went away")
        if self._expired(waiting):
            self._dropped("deadline")
            return _too_late()
        return self._compute([waiting])[0]

    def _run(self, batch: list[_Waiting[Item, Raw]]) -> list[Raw | StageError]:
        begin = time.perf_counter()
        outcomes = list(self._forward([waiting.item for waiting in batch]))
        if len(outcomes) != len(batch):
            raise RuntimeError(f"forward returned {len(outcomes)} outcomes for {len(batch)} items")
        if self._meter is not None:
            items = [Waited(waiting.since, waiting.trace) for waiting in batch]
            self._meter.batch(items, sum(waiting.cost for waiting in batch), begin, time.perf_counter())
        return outcomes

    def _dropped(self, reason: str) -> None:
        if self._meter is not None:
            self._meter.dropped(reason)

    def _expired(self, waiting: _Waiting[Item, Raw]) -> bool:
        return waiting.deadline is not None and self._clock() >= waiting.deadline


def _as_stage_error(error: BaseException) -> StageError:
    if isinstance(error, StageError):
        return error
    logger.error("The model failed on one item.", exc_info=error)
    return StageError("internal", "the model failed on this request")


def _too_late() -> StageError:
    return StageError("deadline_exceeded", "the request's time was over before it was computed")


def _shutting_down() -> StageError:
    return StageError("cancelled", "the service is shutting down")
