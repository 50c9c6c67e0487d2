"""What a replica tells the autoscaler: counted at a stage whose steps are held."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from deployments.stage_runner import StageRunner
from deployments.stage_settings import StageSettings
from pipeline.errors import StageError

Numbers = tuple[int, ...]


class Held:
    """Numbers cost their sum, each is a part; `prepare`, a pass and `finish` wait for their permits."""

    def __init__(self) -> None:
        self.prepares, self.passes, self.finishes = (threading.Semaphore(0) for _ in range(3))
        self.entered = threading.Semaphore(0)

    def prepare(self, *numbers: int) -> Numbers:
        assert self.prepares.acquire(timeout=20)
        if numbers[0] < 0:
            raise StageError("invalid_value", "negative", "number")
        return numbers

    def batch_key(self, item: Numbers) -> object:
        return None

    def cost(self, item: Numbers) -> int:
        return sum(item)

    def split(self, item: Numbers, max_cost: int | None) -> list[Numbers]:
        return [(number,) for number in item]

    def forward(self, batch: Sequence[Numbers]) -> list[int]:
        self.entered.release()
        assert self.passes.acquire(timeout=20)
        return [sum(item) for item in batch]

    def finish(self, item: Numbers, raw: int) -> int:
        assert self.finishes.acquire(timeout=20)
        return raw

    def merge(self, item: Numbers, parts: Sequence[int]) -> int:
        return sum(parts)


class Caller:
    """Asks a runner over a held stage."""

    def __init__(self) -> None:
        self.stage = Held()
        self.runner: StageRunner[Numbers, int, int] = StageRunner(
            self.stage, StageSettings(max_batch_size=8, cpu_threads=4)
        )

    def ask(self, *numbers: int, prepared: bool = True) -> asyncio.Task[int]:
        if prepared:
            self.stage.prepares.release()
        return asyncio.create_task(self.runner.run(lambda: self.stage.prepare(*numbers), None))

    async def in_a_pass(self) -> None:
        assert await asyncio.to_thread(self.stage.entered.acquire, timeout=20)

    async def told(self, **values: float) -> dict[str, float]:
        """The report in which these stand."""
        async with asyncio.timeout(20):
            while not values.items() <= (report := self.runner.load.report()).items():
                await asyncio.sleep(0)
        return report

    def let_all_go(self) -> None:
        for permits in (self.stage.prepares, self.stage.passes, self.stage.finishes):
            permits.release(100)


def test_work_is_counted_when_it_comes_waits_and_is_done() -> None:
    async def run() -> None:
        caller = Caller()
        assert set(caller.runner.load.report().values()) == {0}
        tasks = [caller.ask(2)]
        await caller.in_a_pass()
        await caller.told(calls=1, came=2, waiting=0, done=0)
        tasks += [caller.ask(4), caller.ask(6)]
        await caller.told(
            calls=3, came=12, waiting=6
        )  # 2 is in its pass; of the others, another replica could have one
        tasks.append(caller.ask(8, prepared=False))
        await caller.told(calls=4, came=12, waiting=10)  # one that is not known yet: as the others on average, 4
        caller.stage.prepares.release()
        await caller.told(calls=4, came=20, waiting=12)
        tasks[1].cancel()
        await caller.told(waiting=8)
        caller.stage.passes.release(2)
        await caller.told(done=16, waiting=8)  # all but the largest wait for their `finish`
        caller.let_all_go()
        assert await asyncio.gather(tasks[0], *tasks[2:]) == [2, 6, 8]
        report = await caller.told(calls=4, came=20, done=16, waiting=0)
        assert report["model_s"] > 0
        assert report["cpu_s"] > 0
        with pytest.raises(StageError):
            await caller.ask(-1)
        await caller.told(calls=5, came=20, done=16, waiting=0)
        caller.runner.load.call()
        await caller.told(calls=6, came=20)
        await caller.runner.close()

    asyncio.run(run())


def test_a_large_item_waits_for_itself_alone_until_others_wait_for_it() -> None:
    async def run() -> None:
        caller = Caller()
        first = caller.ask(3, 3, 3, 3)
        await caller.in_a_pass()
        await caller.told(came=12, waiting=0)
        second = caller.ask(3, 3, 3, 3)
        await caller.told(came=24, waiting=12)
        caller.stage.passes.release()
        caller.stage.finishes.release()
        await caller.in_a_pass()
        await caller.told(came=24, done=3, waiting=9)  # a quarter of the first is through
        caller.let_all_go()
        assert [await first, await second] == [12, 12]
        await caller.told(done=24, waiting=0)
        await caller.runner.close()

    asyncio.run(run())


def test_a_pass_counts_as_busy_while_it_runs() -> None:
    async def run() -> None:
        caller = Caller()
        task = caller.ask(1)
        await caller.in_a_pass()
        one = (await caller.told(done=0))["model_s"]
        await asyncio.sleep(0)
        assert (await caller.told(done=0))["model_s"] > one
        caller.let_all_go()
        await task
        await caller.runner.close()

    asyncio.run(run())
