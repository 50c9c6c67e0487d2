"""The batcher: nothing lost, nothing twice, full batches under load, no wait when idle. Events, never sleeps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from deployments.batch_queue import PATIENCE_S
from deployments.batcher import Batcher
from pipeline.errors import StageError


class Model:
    """Records its batches; holds each one until `free` is set; items in `poison` make the whole batch raise."""

    def __init__(self, *, free: bool = True, poison: Sequence[int] = (), refuse: Sequence[int] = ()) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.entered = threading.Semaphore(0)
        self.free = threading.Event()
        self.inside = 0
        self._poison, self._refuse = set(poison), set(refuse)
        if free:
            self.free.set()

    def forward(self, batch: Sequence[int]) -> list[int | StageError]:
        self.inside += 1
        assert self.inside == 1, "two batches at once"
        self.batches.append(list(batch))
        self.threads.add(threading.get_ident())
        self.entered.release()
        assert self.free.wait(20)
        self.inside -= 1
        if self._poison & set(batch):
            raise RuntimeError("poison")
        return [StageError("invalid_value", "refused") if item in self._refuse else item * 10 for item in batch]


class Ticking:
    """A model and its clock: a pass takes as long as `seconds` says of its batch, and nothing else takes time."""

    def __init__(self, seconds: Callable[[Sequence[int]], float]) -> None:
        self.now = 0.0
        self.batches: list[list[int]] = []
        self._seconds = seconds

    def clock(self) -> float:
        return self.now

    def forward(self, batch: Sequence[int]) -> list[int]:
        self.now += self._seconds(batch)
        self.batches.append(list(batch))
        return list(batch)

    def batcher(self, size: int) -> Batcher[int, int]:
        return Batcher(self.forward, max_batch_size=size, clock=self.clock)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(_awaited(test), 30))


async def _awaited(test: Callable[[], Awaitable[None]]) -> None:
    await test()


@asynccontextmanager
async def batcher_of(
    model: Model, *, size: int = 4, cost: int | None = None, clock: Callable[[], float] = lambda: 0.0
) -> AsyncIterator[Batcher[int, int]]:
    batcher: Batcher[int, int] = Batcher(model.forward, max_batch_size=size, max_batch_cost=cost, clock=clock)
    try:
        yield batcher
    finally:
        model.free.set()
        await batcher.close()


async def entered(model: Model) -> None:
    """Wait until the model has begun one more batch."""
    assert await asyncio.to_thread(model.entered.acquire, timeout=20)


async def queued(count: int = 1) -> None:
    """Let every task that was created run up to its first wait."""
    for _ in range(3 * count):
        await asyncio.sleep(0)


def test_an_idle_model_starts_an_item_at_once() -> None:
    async def test() -> None:
        model = Model()
        async with batcher_of(model) as batcher:
            # A loop clock that never advances: a timer, however short, would never fire.
            asyncio.get_running_loop().time = lambda: 0.0  # type: ignore[method-assign]
            assert await batcher.submit(1) == 10
            assert await batcher.submit(2) == 20
        assert model.batches == [[1], [2]]

    asyncio.run(test())  # not `run`: its own time limit needs the clock


def test_items_that_arrive_while_a_batch_runs_fill_the_next_one() -> None:
    async def test() -> None:
        model = Model(free=False)
        async with batcher_of(model, size=4) as batcher:
            first = asyncio.create_task(batcher.submit(0))
            await entered(model)
            rest = [asyncio.create_task(batcher.submit(item)) for item in range(1, 10)]
            await queued()
            model.free.set()
            assert await asyncio.gather(first, *rest) == [item * 10 for item in range(10)]
        assert model.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9]]

    run(test)


def test_keys_are_not_mixed_and_what_came_first_goes_first() -> None:
    async def test() -> None:
        model = Model(free=False)
        async with batcher_of(model, size=2) as batcher:
            tasks = [asyncio.create_task(batcher.submit(0, key="first"))]
            await entered(model)
            for item in (1, 2, 3, 100, 4, 5):
                tasks.append(asyncio.create_task(batcher.submit(item, key="rare" if item == 100 else "busy")))
            await queued()
            model.free.set()
            await asyncio.gather(*tasks)
        # The batch of the first that waits takes what it can; then the rare key's item is older than what is left.
        assert model.batches == [[0], [1, 2], [3, 4], [100], [5]]

    run(test)


def test_an_early_deadline_goes_first_over_all_keys_and_within_its_own() -> None:
    async def test() -> None:
        model = Model(free=False)
        async with batcher_of(model, size=2) as batcher:
            tasks = [asyncio.create_task(batcher.submit(0))]
            await entered(model)
            for item, key, deadline in (
                (1, "calm", None),
                (2, "calm", 8.0),
                (3, "calm", 1000.0),  # later than patience: as if none were set
                (4, "hasty", None),
                (5, "hasty", 3.0),
                (6, "hasty", 3.0),
                (7, "hasty", 2.0),
            ):
                tasks.append(asyncio.create_task(batcher.submit(item, key=key, deadline=deadline)))
            await queued()
            model.free.set()
            await asyncio.gather(*tasks)
        assert model.batches == [[0], [7, 5], [6, 4], [2, 1], [3]]

    run(test)


def test_those_in_a_hurry_overtake_for_a_while_only() -> None:
    """One caller sets no deadline; two others always have an item waiting that is due in half the patience."""
    now = 0.0
    order: list[str] = []

    def forward(batch: Sequence[str]) -> list[str]:
        nonlocal now
        now += 1.0
        order.extend(batch)
        return list(batch)

    async def test() -> None:
        batcher: Batcher[str, str] = Batcher(forward, max_batch_size=1, clock=lambda: now)

        async def hasty() -> None:
            for _ in range(12):
                await batcher.submit("hasty", key="busy", deadline=now + PATIENCE_S / 2)

        await asyncio.gather(batcher.submit("patient", key="rare"), hasty(), hasty())
        await batcher.close()

    run(test)
    assert len(order) == 25
    assert PATIENCE_S / 2 <= order.index("patient") <= PATIENCE_S / 2 + 2


def test_what_would_end_too_late_is_not_begun() -> None:
    """Where passes have taken a second each, half a second is too little, unless that is long ago."""
    model = Ticking(lambda batch: 1.0)

    async def test() -> None:
        batcher = model.batcher(size=2)
        for item in range(3):  # the first is no measure: three are
            assert await batcher.submit(item, deadline=model.now + 0.5) == item
        assert await batcher.submit(3, deadline=model.now + 1.0) == 3
        with pytest.raises(StageError) as refusal:
            await batcher.submit(4, deadline=model.now + 0.9)
        assert refusal.value.code == "deadline_exceeded"
        assert await batcher.submit(5, deadline=model.now + 0.5, key="other") == 5
        pair = await asyncio.gather(*(batcher.submit(item, deadline=model.now + 0.5) for item in (6, 7)))
        assert pair == [6, 7]  # nothing is known of batches of two
        model.now += 60.0
        assert await batcher.submit(8, deadline=model.now + 0.5) == 8
        await batcher.close()

    run(test)


def test_a_place_of_one_who_would_be_late_goes_to_the_next() -> None:
    model = Ticking(lambda batch: 1.0)

    async def test() -> None:
        batcher = model.batcher(size=2)
        for _ in range(3):
            await asyncio.gather(*(batcher.submit(0) for _ in range(2)))
        deadlines = {1: model.now + 0.9, 2: None, 3: model.now + 0.5, 4: model.now + 5.0}
        calls = (batcher.submit(item, deadline=deadline) for item, deadline in deadlines.items())
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [one if isinstance(one, int) else "late" for one in outcomes] == ["late", 2, "late", 4]
        assert model.batches[3:] == [[4, 2]]
        await batcher.close()

    run(test)


def test_who_would_be_late_in_a_batch_only_runs_alone_where_others_can_wait() -> None:
    model = Ticking(lambda batch: 0.05 * len(batch))

    async def test() -> None:
        batcher = model.batcher(size=4)
        for _ in range(3):
            await asyncio.gather(*(batcher.submit(0) for _ in range(4)))
        deadlines = {1: None, 2: model.now + 0.15, 3: None, 4: None}
        await asyncio.gather(*(batcher.submit(item, deadline=deadline) for item, deadline in deadlines.items()))
        assert model.batches[3:] == [[2], [1, 3, 4]]
        await batcher.close()

    run(test)


def test_a_costly_pass_says_nothing_of_a_cheap_one() -> None:
    model = Ticking(lambda batch: 0.01 * sum(batch))

    async def test() -> None:
        batcher = model.batcher(size=4)
        for _ in range(3):
            await batcher.submit(32, cost=32)
        assert await batcher.submit(1, cost=1, deadline=model.now + 0.25) == 1
        with pytest.raises(StageError):
            await batcher.submit(32, cost=32, deadline=model.now + 0.25)
        await batcher.close()

    run(test)


def test_cost_limits_a_batch_and_an_item_over_the_limit_runs_alone() -> None:
    async def test() -> None:
        model = Model(free=False)
        async with batcher_of(model, size=10, cost=5) as batcher:
            tasks = [asyncio.create_task(batcher.submit(0))]
            await entered(model)
            for item, cost in enumerate((2, 3, 1, 9, 4, 1), start=1):
                tasks.append(asyncio.create_task(batcher.submit(item, cost=cost)))
            await queued()
            model.free.set()
            assert await asyncio.gather(*tasks) == [item * 10 for item in range(7)]
        assert model.batches == [[0], [1, 2], [3], [4], [5, 6]]

    run(test)


def test_a_poisonous_item_fails_alone() -> None:
    async def test() -> None:
        model = Model(poison=[2])
        async with batcher_of(model) as batcher:
            outcomes = await asyncio.gather(*(batcher.submit(item) for item in range(4)), return_exceptions=True)
            assert outcomes[:2] + outcomes[3:] == [0, 10, 30]
            assert isinstance(outcomes[2], StageError)
            assert outcomes[2].code == "internal"
            assert "poison" not in str(outcomes[2])
            assert await batcher.submit(5) == 50
        assert model.batches == [[0, 1, 2, 3], [0], [1], [2], [3], [5]]

    run(test)


def test_a_refused_item_fails_without_a_second_run() -> None:
    async def test() -> None:
        model = Model(refuse=[1])
        async with batcher_of(model) as batcher:
            outcomes = await asyncio.gather(*(batcher.submit(item) for item in range(3)), return_exceptions=True)
        assert outcomes[0] == 0
        assert outcomes[2] == 20
        assert isinstance(outcomes[1], StageError)
        assert outcomes[1].code == "invalid_value"
        assert model.batches == [[0, 1, 2]]

    run(test)


@pytest.mark.parametrize("outcomes", [[], [1, 2, 3]])
def test_a_model_that_returns_the_wrong_number_of_outcomes_leaves_nobody_waiting(outcomes: list[int]) -> None:
    async def test() -> None:
        batcher: Batcher[int, int] = Batcher(lambda batch: outcomes, max_batch_size=2)
        found = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)
        assert [error.code for error in found if isinstance(error, StageError)] == ["internal", "internal"]
        await batcher.close()

    run(test)


def test_even_system_exit_leaves_nobody_waiting() -> None:
    def forward(batch: Sequence[int]) -> list[int]:
        raise SystemExit

    async def test() -> None:
        batcher: Batcher[int, int] = Batcher(forward, max_batch_size=2)
        with pytest.raises(StageError, match="internal"):
            await batcher.submit(1)
        await batcher.close()

    run(test)


def test_a_cancelled_item_is_not_computed() -> None:
    async def test() -> None:
        model = Model(free=False)
        async with batcher_of(model) as batcher:
            first = asyncio.create_task(batcher.submit(0))
            await entered(model)
            doomed, kept = (asyncio.create_task(batcher.submit(item)) for item in (1, 2))
            await queued()
            doomed.cancel()
            await queued()
            model.free.set()
            assert await first == 0
            assert await kept == 20
            assert doomed.cancelled()
        assert model.batches == [[0], [2]]

    run(test)


def test_cancelling_an_item_in_a_running_batch_harms_nobody() -> None:
    async def test() -> None:
        model = Model(free=False)
        async with batcher_of(model) as batcher:
            doomed, kept = (asyncio.create_task(batcher.submit(item)) for item in (1, 2))
            await entered(model)
            doomed.cancel()
            await queued()
            model.free.set()
            assert await kept == 20
            assert await batcher.submit(3) == 30

    run(test)


def test_an_item_cancelled_before_its_second_run_is_not_computed_again() -> None:
    async def test() -> None:
        model = Model(free=False, poison=[2])
        async with batcher_of(model) as batcher:
            doomed, bad = (asyncio.create_task(batcher.submit(item)) for item in (1, 2))
            await entered(model)
            doomed.cancel()
            await queued()
            model.free.set()
            with pytest.raises(StageError):
                await bad
        assert model.batches == [[1, 2], [2]]

    run(test)


def test_the_deadline_is_read_just_before_compute() -> None:
    async def test() -> None:
        now = 0.0
        model = Model(free=False)
        async with batcher_of(model, clock=lambda: now) as batcher:
            first = asyncio.create_task(batcher.submit(0, deadline=5))
            await entered(model)
            late, early = (asyncio.create_task(batcher.submit(item, deadline=item)) for item in (10, 20))
            await queued()
            now = 10.0
            model.free.set()
            assert await first == 0  # it had begun in time
            assert await early == 200
            with pytest.raises(StageError) as refusal:
                await late
            assert refusal.value.code == "deadline_exceeded"
        assert model.batches == [[0], [20]]

    run(test)


def test_close_finishes_what_runs_and_fails_what_waits() -> None:
    async def test() -> None:
        model = Model(free=False)
        batcher: Batcher[int, int] = Batcher(model.forward, max_batch_size=1)
        running = asyncio.create_task(batcher.submit(1))
        await entered(model)
        waiting = asyncio.create_task(batcher.submit(2))
        await queued()
        closing = asyncio.create_task(batcher.close())
        await queued()
        model.free.set()
        await closing
        assert await running == 10
        for refused in (waiting, batcher.submit(3)):
            with pytest.raises(StageError) as refusal:
                await refused
            assert refusal.value.code == "cancelled"
        await batcher.close()
        assert model.batches == [[1]]

    run(test)


def test_a_callers_thread_never_enters_the_model() -> None:
    async def test() -> None:
        model = Model()
        async with batcher_of(model) as batcher:
            batcher.call(lambda: model.forward([7]))
            await asyncio.gather(*(batcher.submit(item) for item in range(9)))
        assert len(model.threads) == 1
        assert threading.get_ident() not in model.threads

    run(test)


@pytest.mark.parametrize("limits", [(0, None), (1, 0)])
def test_limits_below_one_are_refused(limits: tuple[int, int | None]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Batcher(lambda batch: batch, max_batch_size=limits[0], max_batch_cost=limits[1])
