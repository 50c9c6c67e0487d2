"""What the three stage deployments have in common: CPU work in a pool, the model behind a batcher."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from deployments import tracing
from deployments.batcher import Batcher
from deployments.logs import LOGGER
from deployments.stage_load import Work
from deployments.stage_meter import StageMeter
from deployments.stage_settings import StageSettings
from pipeline.allocator import keep_freed_memory
from pipeline.errors import StageError, too_late
from pipeline.stages import Splittable, Stage

logger = logging.getLogger(LOGGER)

Item = TypeVar("Item")
Raw = TypeVar("Raw")
Output = TypeVar("Output")
T = TypeVar("T")


class StageRunner(Generic[Item, Raw, Output]):
    """Runs a stage for many callers at once: `prepare` and `finish` in threads, `forward` in batches.

    Args:
        stage: the model; its `forward` is entered by one thread only. Where it is `Splittable`, an item of more than
            `max_batch_cost` runs in parts.
        settings: batch limits, and how many threads do the CPU work.
        clock: Unix time in seconds, against which deadlines are read.
        name, model: what metrics call the stage and its model.
    """

    def __init__(
        self,
        stage: Stage[Item, Raw, Output],
        settings: StageSettings,
        clock: Callable[[], float] = time.time,
        *,
        name: str = "stage",
        model: str = "",
    ) -> None:
        self._stage = stage
        self._max_cost = settings.max_batch_cost
        self._clock = clock
        self._meter = StageMeter(name, model, settings)
        self.load = self._meter.load
        self._batcher: Batcher[Item, Raw] = Batcher(
            stage.forward,
            max_batch_size=settings.max_batch_size,
            max_batch_cost=settings.max_batch_cost,
            clock=clock,
            meter=self._meter,
        )
        self._pool = ThreadPoolExecutor(settings.cpu_threads, thread_name_prefix="cpu")
        self._few = asyncio.Semaphore(max(1, settings.cpu_threads - 1))

    def limit(self, settings: StageSettings) -> None:
        """Batch limits in place of those at the start, for what comes; on the event loop. Nothing else changes."""
        self._batcher.limit(settings.max_batch_size, settings.max_batch_cost)
        self._meter.limit(settings)
        self._max_cost = settings.max_batch_cost

    def warm_up(self, prepare: Callable[[], Item]) -> Output:
        """One item through the whole stage, in the calling thread but for the model: for a replica's constructor."""
        item = prepare()
        raw = self._batcher.call(lambda: self._stage.forward([item]))[0]
        return self._stage.finish(item, raw)

    async def run(self, prepare: Callable[[], Item], deadline: float | None) -> Output:
        """One item through the whole stage.

        Args:
            prepare: the stage's `prepare` with its arguments bound; runs in the CPU pool.
            deadline: Unix time in seconds, or None; an item that is late is dropped before each step.

        Raises:
            StageError: always this, whatever failed, so that no exception text leaves the replica.
        """
        with self.load.item() as work:
            item = await self._in_pool("prepare", prepare, deadline)
            self.load.size(work, self._stage.cost(item))
            parts = self._stage.split(item, self._max_cost) if isinstance(self._stage, Splittable) else (item,)
            if len(parts) == 1:
                return await self._finish(parts[0], await self._forward(parts[0], deadline), deadline)
            return await self._in_parts(item, parts, deadline, work)

    async def _in_parts(self, item: Item, parts: Sequence[Item], deadline: float | None, work: Work) -> Output:
        """One part after another: each queues anew, behind what waits, whatever the deadline: so others take their turn
        in between, and what is given up or late meanwhile ends there. Of the pool, all such items together leave a
        thread to the others, if it has two."""
        assert isinstance(self._stage, Splittable)
        merge = self._stage.merge
        each = (work.left or 0) // len(parts)
        outputs: list[Output] = []
        for part in parts:
            raw = await self._forward(part, deadline, hurried=False)
            async with self._few:
                outputs.append(await self._finish(part, raw, deadline))
            work.left = (work.left or 0) - each
        async with self._few:
            return await self._in_pool("finish", lambda: merge(item, outputs), deadline)

    async def _forward(self, item: Item, deadline: float | None, hurried: bool = True) -> Raw:
        key, cost = self._stage.batch_key(item), self._stage.cost(item)
        return await self._batcher.submit(item, key=key, cost=cost, deadline=deadline, hurried=hurried)

    async def _finish(self, item: Item, raw: Raw, deadline: float | None) -> Output:
        return await self._in_pool("finish", lambda: self._stage.finish(item, raw), deadline)

    async def close(self) -> None:
        await self._batcher.close()
        self._pool.shutdown()

    async def _in_pool(self, step: str, work: Callable[[], T], deadline: float | None) -> T:
        trace = tracing.here()

        def guarded() -> T:
            # Checked when a thread takes it up: what waited too long, or was given up, is not computed.
            if deadline is not None and self._clock() >= deadline:
                self._meter.dropped("deadline")
                raise too_late()
            begin = time.perf_counter()
            try:
                return work()
            except StageError:
                raise
            except Exception as error:
                logger.exception("A stage failed on one item.")
                raise StageError("internal", "the service failed on this request") from error
            finally:
                self._meter.step(step, begin, time.perf_counter(), trace)

        return await asyncio.get_running_loop().run_in_executor(self._pool, guarded)


def settle(settings: StageSettings) -> int:
    """Set this process up for a model, before it is built; the model's threads."""
    if settings.keep_freed_memory:
        keep_freed_memory()
    return model_threads(settings.threads)


def model_threads(setting: int) -> int:
    """Threads of one model: `setting`, or for 0 half of this machine's CPUs.

    Half, because the detector and the image encoder of one request run at the same time. Ray would give each replica
    `OMP_NUM_THREADS` = its `num_cpus` rounded down, which is 1 for every fraction.
    """
    if setting:
        return setting
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cpus // 2)
