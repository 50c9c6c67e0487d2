"""What a replica tells the autoscaler: counted at a stage whose passes are held."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from deployments.stage_runner import StageRunner
from deployments.stage_settings import StageSettings
from pipeline.errors import StageError


class Held:
    """A number costs itself; a pass waits for a permit, and a `prepare` for its gate."""

    def __init__(self) -> None:
        self.entered, self.permits = threading.Semaphore(0), threading.Semaphore(0)
        self.gate = threading.Event()

    def prepare(self, number: int, gated: bool = False) -> int:
        if gated:
            assert self.gate.wait(20)
        if number < 0:
            raise StageError("invalid_value", "negative", "number")
        return number

    def batch_key(self, item: int) -> object:
        return None

    def cost(self, item: int) -> int:
        return item

    def forward(self, batch: Sequence[int]) -> list[int]:
        self.entered.release()
        assert self.permits.acquire(timeout=20)
        return list(batch)

    def finish(self, item: int, raw: int) -> int:
        return raw


Runner = StageRunner[int, int, int]


async def until(runner: Runner, **values: float) -> dict[str, float]:
    """The report in which these stand."""
    async with asyncio.timeout(20):
        while not values.items() <= (report := runner.autoscaling_stats()).items():
            await asyncio.sleep(0)
    return report


def test_work_is_counted_when_it_comes_waits_and_is_done() -> None:
    async def run() -> None:
        stage = Held()
        runner: Runner = StageRunner(stage, StageSettings(max_batch_size=8, cpu_threads=2))
        assert set(runner.autoscaling_stats().values()) == {0}

        def ask(number: int, gated: bool = False) -> asyncio.Task[int]:
            return asyncio.create_task(runner.run(lambda: stage.prepare(number, gated), None))

        tasks = [ask(2)]
        await asyncio.to_thread(stage.entered.acquire, timeout=20)
        await until(runner, calls=1, came=2, waiting=0, done=0)  # it runs
        tasks += [ask(4), ask(6)]
        await until(runner, calls=3, came=12, waiting=10, done=0)
        tasks.append(ask(8, gated=True))
        await until(runner, calls=4, came=16, waiting=14)  # one that is not known yet: as the others on average, 4
        stage.gate.set()
        await until(runner, calls=4, came=20, waiting=18)
        tasks[1].cancel()
        await until(runner, waiting=14)
        stage.permits.release(2)
        assert await asyncio.gather(tasks[0], *tasks[2:]) == [2, 6, 8]
        report = await until(runner, calls=4, came=20, done=16, waiting=0)
        assert report["model_s"] > 0
        assert report["cpu_s"] > 0
        with pytest.raises(StageError):
            await ask(-1)
        await until(runner, calls=5, came=20, done=16, waiting=0)
        runner.load.call()
        await until(runner, calls=6, came=20)
        await runner.close()

    asyncio.run(run())
