"""A large item in parts: others take their turn in between, and its deadline and its caller's leaving act there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.stage_runner import StageRunner
from deployments.stage_settings import StageSettings
from pipeline.errors import StageError

Parts = tuple[int, ...]


class Adder:
    """A stage that sums numbers; an item costs as many as it holds. Where it is `held`, a pass waits for a permit."""

    def __init__(self, *, held: bool = False) -> None:
        self.passes: list[list[Parts]] = []
        self.submitted = 0
        self.entered = threading.Semaphore(0)
        self.permits = threading.Semaphore(0 if held else 10**6)

    def batch_key(self, item: Parts) -> object:
        self.submitted += 1  # asked just before the item is queued
        return None

    def cost(self, item: Parts) -> int:
        return len(item)

    def split(self, item: Parts, max_cost: int | None) -> list[Parts]:
        most = max_cost or len(item)
        return [item[start : start + most] for start in range(0, len(item), most)]

    def forward(self, batch: Sequence[Parts]) -> list[int]:
        self.passes.append(list(batch))
        self.entered.release()
        assert self.permits.acquire(timeout=20)
        return [sum(item) for item in batch]

    def finish(self, item: Parts, raw: int) -> list[int]:
        if raw < 0:
            raise RuntimeError("secret")
        return [raw]

    def merge(self, item: Parts, parts: Sequence[list[int]]) -> list[int]:
        assert len(parts) > 1
        return [one for part in parts for one in part]


class Clock:
    """Unix time that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


Runner = StageRunner[Parts, int, list[int]]


def run(stage: Adder, test: Callable[[Runner], Awaitable[None]], clock: Clock | None = None, cost: int = 4) -> None:
    async def limited() -> None:
        runner: Runner = StageRunner(stage, StageSettings(max_batch_cost=cost), clock or Clock())
        async with asyncio.timeout(30):
            try:
                await test(runner)
            finally:
                stage.permits.release(10**6)
                await runner.close()

    asyncio.run(limited())


async def entered(stage: Adder) -> None:
    """Wait until the model has begun one more pass."""
    assert await asyncio.to_thread(stage.entered.acquire, timeout=20)


async def submitted(stage: Adder, count: int) -> None:
    """Wait until so many items and parts have been queued in all."""
    while stage.submitted < count:
        await asyncio.sleep(0)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6), cost=st.integers(1, 8))
def test_every_pass_stays_within_the_cost_and_every_caller_gets_all_parts(lengths: list[int], cost: int) -> None:
    stage = Adder()
    items = [tuple(range(100 * i, 100 * i + length)) for i, length in enumerate(lengths)]

    async def test(runner: Runner) -> None:
        answers = await asyncio.gather(*(runner.run(lambda item=item: item, None) for item in items))  # type: ignore[misc]
        assert answers == [[sum(item[at : at + cost]) for at in range(0, len(item), cost)] for item in items]

    run(stage, test, cost=cost)
    assert all(sum(map(len, batch)) <= cost for batch in stage.passes)
    assert sum(len(part) for batch in stage.passes for part in batch) == sum(lengths)


def test_others_take_their_turn_between_the_parts() -> None:
    stage = Adder(held=True)
    large = tuple(range(12))  # three passes

    async def test(runner: Runner) -> None:
        first = asyncio.create_task(runner.run(lambda: large, None))
        await entered(stage)
        small = [asyncio.create_task(runner.run(lambda i=i: (100 + i,), None)) for i in range(3)]  # type: ignore[misc]
        await submitted(stage, 4)
        stage.permits.release(2)
        await asyncio.gather(*small)  # before the large one is half done
        assert not first.done()
        stage.permits.release(2)
        assert await first == [6, 22, 38]

    run(stage, test)
    small = [(100,), (101,), (102,)]
    assert [sorted(batch) for batch in stage.passes] == [[large[:4]], small, [large[4:8]], [large[8:]]]


def test_two_large_items_alternate() -> None:
    stage = Adder(held=True)
    items = [tuple(range(start, start + 12)) for start in (0, 100)]

    async def test(runner: Runner) -> None:
        tasks = [asyncio.create_task(runner.run(lambda: items[0], None))]
        await entered(stage)
        tasks.append(asyncio.create_task(runner.run(lambda: items[1], None)))
        for count in (2, 3, 4, 5, 6):  # the next part of the other is queued before a pass ends
            await submitted(stage, count)
            stage.permits.release()
            await entered(stage)
        stage.permits.release()
        await asyncio.gather(*tasks)

    run(stage, test)
    assert [batch[0][0] // 100 for batch in stage.passes] == [0, 1, 0, 1, 0, 1]


def test_a_deadline_ends_an_item_between_its_parts() -> None:
    stage, clock = Adder(held=True), Clock()

    async def test(runner: Runner) -> None:
        task = asyncio.create_task(runner.run(lambda: tuple(range(12)), 10.0))
        for _ in range(2):
            await entered(stage)
            clock.now += 6.0
            stage.permits.release()
        with pytest.raises(StageError) as refusal:
            await task
        assert refusal.value.code == "deadline_exceeded"

    run(stage, test, clock)
    assert len(stage.passes) == 2  # of three


def test_a_caller_who_leaves_ends_an_item_between_its_parts() -> None:
    stage = Adder(held=True)

    async def test(runner: Runner) -> None:
        task = asyncio.create_task(runner.run(lambda: tuple(range(12)), None))
        await entered(stage)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stage.permits.release(2)
        assert await runner.run(lambda: (1, 2), None) == [3]

    run(stage, test)
    assert [len(batch) for batch in stage.passes] == [1, 1]
    assert len(stage.passes[1][0]) == 2


def test_a_part_that_fails_ends_its_item_only() -> None:
    stage = Adder()

    async def test(runner: Runner) -> None:
        bad, good = await asyncio.gather(
            runner.run(lambda: (1, 1, 1, 1, -9, 1, 1, 1, 5, 5), None),
            runner.run(lambda: (2,) * 9, None),
            return_exceptions=True,
        )
        assert isinstance(bad, StageError)
        assert bad.code == "internal"
        assert "secret" not in str(bad)
        assert good == [8, 8, 2]

    run(stage, test)
    assert (5, 5) not in [part for batch in stage.passes for part in batch]


def test_a_small_item_waits_for_one_part_of_a_large_one_at_most() -> None:
    """At whichever part it arrives: it is answered before the part after the next ends."""
    stage = Adder(held=True)

    async def test(runner: Runner) -> None:
        large = asyncio.create_task(runner.run(lambda: tuple(range(300)), None))  # 75 parts
        for part in range(20):
            await entered(stage)
            small = asyncio.create_task(runner.run(lambda i=part: (1000 + i,), None))  # type: ignore[misc]
            await submitted(stage, 2 * part + 2)
            stage.permits.release()  # the part that runs
            await entered(stage)
            stage.permits.release()  # the small one, with or without the next part
            assert await small == [1000 + part]
            assert not large.done()
        large.cancel()
        stage.permits.release(10)

    run(stage, test)
    assert [batch[0][0] >= 1000 for batch in stage.passes[:40]] == [False, True] * 20


def test_large_items_in_a_hurry_let_a_small_one_through_that_is_not() -> None:
    """It waits for one part of each at most."""
    stage = Adder(held=True)

    async def test(runner: Runner) -> None:
        large = [asyncio.create_task(runner.run(lambda: tuple(range(100)), 5.0)) for _ in range(2)]
        await entered(stage)
        await submitted(stage, 2)
        small = asyncio.create_task(runner.run(lambda: (1000,), None))
        await submitted(stage, 3)
        for _ in range(3):
            stage.permits.release()
            await entered(stage)
        assert stage.passes[2] == [(1000,)]
        assert await small == [1000]
        for task in large:
            task.cancel()
        stage.permits.release(10)

    run(stage, test)


class SlowToFinish(Adder):
    """Finishing a part of more than one number waits for a permit; `finishing` counts those that do."""

    def __init__(self) -> None:
        super().__init__()
        self.finishing = 0
        self.most = 0
        self.gate = threading.Semaphore(0)
        self.began = threading.Semaphore(0)

    def finish(self, item: Parts, raw: int) -> list[int]:
        if len(item) > 1:
            self.finishing += 1
            self.most = max(self.most, self.finishing)
            self.began.release()
            assert self.gate.acquire(timeout=20)
            self.finishing -= 1
        return [raw]


def test_large_items_leave_a_thread_of_the_pool_to_the_small() -> None:
    stage = SlowToFinish()

    async def test(runner: Runner) -> None:
        large = [asyncio.create_task(runner.run(lambda: (1,) * 12, None)) for _ in range(5)]
        assert await asyncio.to_thread(stage.began.acquire, timeout=20)
        await submitted(stage, 5)
        for i in range(10):
            assert await runner.run(lambda i=i: (i,), None) == [i]  # type: ignore[misc]
        assert not any(task.done() for task in large)
        stage.gate.release(100)
        assert await asyncio.gather(*large) == [[4, 4, 4]] * 5

    run(stage, test)
    assert stage.most == 1  # of two threads
