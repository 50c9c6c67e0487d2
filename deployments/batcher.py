"""Batches that form when the model is free, not when a timer fires.

An item that finds the model idle starts at once, alone. Items that arrive while a batch runs wait for it, and the next
batch takes as many of them as fit. So there is no added wait when idle and there are full batches under load, without a
window to tune. (`@serve.batch` closes a batch while the previous one still runs: under load it runs batches of one.)
What goes into a batch, and whose turn it is, is `deployments.batch_queue`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Generic, TypeVar

from deployments import tracing
from deployments.batch_queue import Batch, BatchQueue, Waiting
from deployments.logs import LOGGER
from deployments.stage_meter import StageMeter, Waited
from pipeline.errors import StageError, too_late

logger = logging.getLogger(LOGGER)

Item = TypeVar("Item")
Raw = TypeVar("Raw")
T = TypeVar("T")


class Batcher(Generic[Item, Raw]):
    """Runs `forward` on batches of items that share a key, on one thread of its own.

    Order, limits, and what is dropped just before compute are `BatchQueue`'s. If `forward` raises, the items of that
    batch run again one by one: a bad item fails alone.

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
        self._forward = forward
        self._clock = clock
        self._meter = meter
        self._queue: BatchQueue[Item, Raw] = BatchQueue(max_batch_size, max_batch_cost, clock, self._left_out)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    def limit(self, max_batch_size: int, max_batch_cost: int | None) -> None:
        """Other limits for the batches to come; the one that runs is not touched. On the event loop, which alone forms
        batches: so none is formed under one limit of each kind."""
        self._queue.limit(max_batch_size, max_batch_cost)

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the model thread and wait. For warm-up, before the first `submit`: it blocks the loop."""
        return self._thread.submit(function).result()

    async def submit(
        self, item: Item, *, key: Hashable = None, cost: int = 1, deadline: float | None = None, hurried: bool = True
    ) -> Raw:
        """The outcome of `item`. Cancelling the caller takes the item out of the queue.

        Args:
            key: only items of equal keys share a batch.
            cost: this item's share of `max_batch_cost`.
            deadline: Unix time in seconds after which the item is not computed any more.
            hurried: whether the deadline also says whose turn is next.

        Raises:
            StageError: the item's own refusal, `deadline_exceeded`, `cancelled` (closed), or `internal`.
        """
        if self._closed:
            raise _shutting_down()
        loop = asyncio.get_running_loop()
        waiting: Waiting[Item, Raw] = Waiting(
            item, cost, deadline, loop.create_future(), time.perf_counter(), tracing.here()
        )
        self._queue.add(key, waiting, hurried)
        if self._worker is None:
            # The task starts after everything that is ready now, so items submitted together share a batch.
            self._worker = loop.create_task(self._work())
        return await waiting.future

    async def close(self) -> None:
        """Finish the batch that runs, fail what waits with `cancelled`, refuse what comes. Idempotent."""
        self._closed = True
        for waiting in self._queue.drain():
            if not waiting.future.done():
                waiting.future.set_exception(_shutting_down())
        if self._worker is not None:
            await asyncio.wait({self._worker})
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while chosen := self._queue.next_batch():
                key, batch = chosen
                outcomes = await loop.run_in_executor(self._thread, self._compute, key, batch)
                for waiting, outcome in zip(batch, outcomes, strict=True):
                    if waiting.future.done():  # cancelled while it was computed
                        continue
                    if isinstance(outcome, StageError):
                        waiting.future.set_exception(outcome)
                    else:
                        waiting.future.set_result(outcome)
        finally:
            self._worker = None

    def _compute(self, key: Hashable, batch: Batch[Item, Raw]) -> list[Raw | StageError]:
        """On the model thread. Never raises: whatever happens, each item gets an outcome."""
        try:
            return self._run(key, batch)
        except BaseException as error:  # also SystemExit from a library: nobody may wait for ever
            if len(batch) == 1:
                return [_as_stage_error(error)]
            logger.warning("A batch of %d failed with %s; its items run one by one.", len(batch), type(error).__name__)
        return [self._run_alone(key, waiting) for waiting in batch]

    def _run_alone(self, key: Hashable, waiting: Waiting[Item, Raw]) -> Raw | StageError:
        if waiting.future.done():
            self._dropped("cancelled")
            return StageError("cancelled", "the caller went away")
        if self._queue.late(waiting):
            self._dropped("deadline")
            return too_late()
        return self._compute(key, [waiting])[0]

    def _run(self, key: Hashable, batch: Batch[Item, Raw]) -> list[Raw | StageError]:
        begin, began = time.perf_counter(), self._clock()
        cost = sum(waiting.cost for waiting in batch)
        with self._meter.forward(cost) if self._meter is not None else nullcontext():
            outcomes = list(self._forward([waiting.item for waiting in batch]))
        if len(outcomes) != len(batch):
            raise RuntimeError(f"forward returned {len(outcomes)} outcomes for {len(batch)} items")
        # No batch is chosen meanwhile, so the event loop does not read what is written here.
        self._queue.times.note(key, len(batch), cost, began, self._clock())
        if self._meter is not None:
            items = [Waited(waiting.since, waiting.trace) for waiting in batch]
            self._meter.batch(items, cost, begin, time.perf_counter())
        return outcomes

    def _dropped(self, reason: str) -> None:
        if self._meter is not None:
            self._meter.dropped(reason)

    def _left_out(self, waiting: Waiting[Item, Raw], reason: str) -> None:
        self._dropped(reason)
        if not waiting.future.done():
            waiting.future.set_exception(too_late())


def _as_stage_error(error: BaseException) -> StageError:
    if isinstance(error, StageError):
        return error
    logger.error("The model failed on one item.", exc_info=error)
    return StageError("internal", "the model failed on this request")


def _shutting_down() -> StageError:
    return StageError("cancelled", "the service is shutting down")
