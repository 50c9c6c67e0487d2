"""The batcher: nothing lost, nothing twice, full batches under load, no wait when idle. Events, never sleeps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_keys_are_not_mixed_and_take_turns() -> None:
    async def test() -> None:
        model = Model(free=False)
        async with batcher_of(model, size=2) as batcher:
            tasks = [asyncio.create_task(batcher.submit(0, key="first"))]
            await entered(model)
            tasks += [asyncio.create_task(batcher.submit(item, key="busy")) for item in range(1, 8)]
            tasks += [asyncio.create_task(batcher.submit(100, key="rare"))]
            await queued()
            model.free.set()
            await asyncio.gather(*tasks)
        # The rare key waits for one batch of the busy one, not for all four.
        assert model.batches == [[0], [1, 2], [100], [3, 4], [5, 6], [7]]

    run(test)


def test_a_key_that_never_runs_dry_does_not_starve_another() -> None:
    async def test() -> None:
        model = Model(free=False)
        async with batcher_of(model, size=1) as batcher:
            busy = [asyncio.create_task(batcher.submit(item, key="busy")) for item in range(3)]
            await entered(model)
            rare = asyncio.create_task(batcher.submit(100, key="rare"))
            await queued()
            model.free.set()
            number = 3
            while not rare.done():
                busy.append(asyncio.create_task(batcher.submit(number, key="busy")))
                number += 1
                # Only what is still open: a finished task would let this loop spin ahead of the model's thread.
                open_tasks = {task for task in (*busy, rare) if not task.done()}
                await asyncio.wait(open_tasks, return_when=asyncio.FIRST_COMPLETED)
                assert number < 1000
            await asyncio.gather(*busy)
        assert model.batches.index([100]) <= 2

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


class Call:
    """One submission of a random script: what it is, and whether its caller gives it up."""

    def __init__(self, number: int, fate: str, key: int, cost: int, pauses: int) -> None:
        self.number, self.fate, self.key, self.cost, self.pauses = number, fate, key, cost, pauses


calls = st.lists(
    st.tuples(
        st.sampled_from(["good", "good", "good", "poison", "refused", "cancelled", "late"]),
        st.integers(0, 2),
        st.integers(1, 6),
        st.integers(0, 3),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(script=calls, size=st.integers(1, 5), cost=st.none() | st.integers(1, 6))
def test_nothing_is_lost_and_nothing_runs_twice(
    script: list[tuple[str, int, int, int]], size: int, cost: int | None
) -> None:
    all_calls = [Call(number, *what) for number, what in enumerate(script)]
    fate = {call.number: call.fate for call in all_calls}
    keys = {call.number: call.key for call in all_calls}
    costs = {call.number: call.cost for call in all_calls}
    model = Model(
        poison=[number for number in fate if fate[number] == "poison"],
        refuse=[number for number in fate if fate[number] == "refused"],
    )

    async def test() -> None:
        async with batcher_of(model, size=size, cost=cost, clock=lambda: 100.0) as batcher:
            tasks = {}
            for call in all_calls:
                tasks[call.number] = asyncio.create_task(
                    batcher.submit(
                        call.number, key=call.key, cost=call.cost, deadline=50.0 if call.fate == "late" else None
                    )
                )
                for _ in range(call.pauses):
                    await asyncio.sleep(0)
                if call.fate == "cancelled":
                    tasks[call.number].cancel()
            outcomes = await asyncio.gather(*tasks.values(), return_exceptions=True)

        for number, outcome in zip(tasks, outcomes, strict=True):
            if fate[number] == "good":
                assert outcome == number * 10
            elif fate[number] == "cancelled":
                assert outcome == number * 10 or isinstance(outcome, asyncio.CancelledError)
            else:
                assert isinstance(outcome, StageError)
                code = {"poison": "internal", "refused": "invalid_value", "late": "deadline_exceeded"}[fate[number]]
                assert outcome.code == code

    run(test)
    computed = [number for batch in model.batches for number in batch]
    for batch in model.batches:
        assert len(batch) <= size
        assert len({keys[number] for number in batch}) == 1
        assert cost is None or len(batch) == 1 or sum(costs[number] for number in batch) <= cost
    for number in fate:
        again = any(fate[other] == "poison" for batch in model.batches if number in batch for other in batch)
        allowed = {"late": (0,), "cancelled": (0, 1, 2) if again else (0, 1)}.get(
            fate[number], (1, 2) if again else (1,)
        )
        assert computed.count(number) in allowed
    first_runs = list(dict.fromkeys(computed))
    for key in set(keys.values()):  # order within a key
        mine = [number for number in first_runs if keys[number] == key]
        assert mine == sorted(mine)
