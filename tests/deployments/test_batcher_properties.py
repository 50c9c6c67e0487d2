"""What holds of the batcher whatever callers do. Time stands still unless a script moves it, and a pass of the model
ends when a script says so: so each script has one outcome, and what waited when a batch was chosen is known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.batch_queue import PATIENCE_S
from deployments.batcher import Batcher
from pipeline.errors import StageError

repeatable = settings(derandomize=True, deadline=None, max_examples=150)


@dataclass
class Call:
    """One submission. `kind`: what the model makes of it."""

    number: int
    kind: str
    key: int
    cost: int
    deadline: float | None
    came: float
    task: asyncio.Task[int] | None = None

    @property
    def due(self) -> tuple[float, int]:
        return min(self.came + PATIENCE_S, self.deadline or float("inf")), self.number


@dataclass
class World:
    """A batcher in a script's hands. `passes`: the items of each forward pass; `first`: those not of a second try."""

    size: int
    cost: int | None
    now: float = 100.0
    calls: list[Call] = field(default_factory=list)
    passes: list[list[int]] = field(default_factory=list)
    first: list[list[int]] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)  # were in a pass with a poisonous one
    unseen: list[list[Call]] = field(default_factory=list)
    inside: bool = False
    permit: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.batcher: Batcher[int, int] = Batcher(
            self.forward, max_batch_size=self.size, max_batch_cost=self.cost, clock=lambda: self.now
        )

    def forward(self, batch: Sequence[int]) -> list[int | StageError]:
        calls = [self.calls[number] for number in batch]
        self.passes.append(list(batch))
        if not self.broken & set(batch):
            self.unseen.append(calls)
        self.inside = True
        assert self.permit.acquire(timeout=20)
        self.inside = False
        if any(call.kind == "poison" for call in calls):
            self.broken |= set(batch)
            raise RuntimeError("poison")
        refusal = StageError("invalid_value", "refused")
        return [refusal if call.kind == "refused" else 10 * call.number for call in calls]

    def chosen(self, batch: list[Call]) -> None:
        """Checks a batch against what waits besides it; nothing else happens between its choice and its pass."""
        self.first.append([call.number for call in batch])
        assert len(batch) <= self.size
        assert len({call.key for call in batch}) == 1
        assert self.cost is None or len(batch) == 1 or sum(call.cost for call in batch) <= self.cost
        assert all(call.deadline is None or call.deadline > self.now for call in batch)
        begun = {number for one in self.first for number in one}
        waiting = [call for call in self.calls if call.number not in begun and call.task and not call.task.done()]
        assert all(batch[0].due < call.due for call in waiting)
        same_key = [call for call in waiting if call.key == batch[0].key]
        assert [call.due for call in batch] == sorted(call.due for call in batch)
        if same_key:
            following = min(same_key, key=lambda call: call.due)
            assert batch[-1].due < following.due
            full = self.cost is not None and sum(call.cost for call in batch) + following.cost > self.cost
            alone = len(batch) == 1 and batch[0].deadline is not None  # it would be late at the end of a longer one
            assert full or alone or len(batch) == self.size

    def open(self) -> bool:
        return any(call.task and not call.task.done() for call in self.calls)

    async def settle(self) -> None:
        """Until the model is in a pass, or nobody waits; and all who are concerned know what was decided."""
        for _ in range(3):
            await asyncio.sleep(0)
        while not self.inside and self.open():
            await asyncio.sleep(0)
        for _ in range(3):
            await asyncio.sleep(0)
        while self.unseen:
            self.chosen(self.unseen.pop())

    async def step(self) -> None:
        if self.inside:
            passes = len(self.passes)
            self.permit.release()
            while self.inside and len(self.passes) == passes:
                await asyncio.sleep(0)
            await self.settle()

    async def play(self, script: Sequence[tuple[str, int, int, int, str]]) -> None:
        for what, key, cost, seconds, kind in script:
            if what == "submit":
                deadline = None if seconds == 0 else self.now + seconds
                call = Call(len(self.calls), kind, key, cost, deadline, self.now)
                self.calls.append(call)
                coroutine = self.batcher.submit(call.number, key=key, cost=cost, deadline=deadline)
                call.task = asyncio.create_task(coroutine)
                call.task.add_done_callback(lambda task: task.cancelled() or task.exception())  # not "never retrieved"
                await self.settle()
            elif what == "cancel" and self.calls:
                victim = self.calls[cost * 7 % len(self.calls)]
                assert victim.task
                victim.task.cancel()
                await self.settle()
            elif what == "wait":
                self.now += seconds / 4
            elif what == "step":
                await self.step()

    async def end(self) -> None:
        while self.open() or self.inside:
            await self.step()
        await self.batcher.close()


action = st.tuples(
    st.sampled_from(["submit"] * 6 + ["step"] * 2 + ["wait", "cancel"]),
    st.integers(0, 2),
    st.integers(1, 6),
    st.sampled_from([0, 0, 2, 8, 11, 60]),
    st.sampled_from(["good"] * 5 + ["poison", "refused"]),
)
scripts = st.lists(action, max_size=40)
limits = {"size": st.integers(1, 4), "cost": st.none() | st.integers(1, 8)}


def played(world: World, script: Sequence[tuple[str, int, int, int, str]], *, close_early: bool = False) -> None:
    async def run() -> None:
        async with asyncio.timeout(30):
            await world.play(script)
            if close_early:
                await closed(world)
            await world.end()

    asyncio.run(run())


@repeatable
@given(script=scripts, **limits)
def test_every_caller_gets_one_answer_its_own_and_nothing_runs_twice(
    script: list[tuple[str, int, int, int, str]], size: int, cost: int | None
) -> None:
    world = World(size, cost)
    played(world, script)
    computed = [number for one in world.passes for number in one]
    for call in world.calls:
        assert call.task
        assert call.task.done()
        times = computed.count(call.number)
        assert times <= (2 if call.number in world.broken else 1)
        if call.task.cancelled():
            continue
        error = call.task.exception()
        if isinstance(error, StageError) and error.code == "deadline_exceeded":
            assert call.deadline is not None
            assert times <= (1 if call.number in world.broken else 0)
            # Late, or its batch would have been: but that is said only where three passes have been seen.
            assert call.deadline <= world.now or len(world.passes) >= 3
            continue
        assert times >= 1
        if call.kind == "good":
            assert call.task.result() == 10 * call.number
        else:
            assert isinstance(error, StageError)
            assert error.code == {"poison": "internal", "refused": "invalid_value"}[call.kind]


@repeatable
@given(script=scripts, **limits)
def test_a_batch_keeps_the_limits_and_the_order(
    script: list[tuple[str, int, int, int, str]], size: int, cost: int | None
) -> None:
    """`World.chosen` checks each batch; and over all of them none overtakes without an earlier deadline of its own."""
    world = World(size, cost)
    played(world, script)
    order = [world.calls[number] for one in world.first for number in one]
    for place, late in enumerate(order):
        for early in order[:place]:
            if early.key == late.key and early.number > late.number:
                assert early.deadline is not None
                assert early.deadline < (late.deadline or float("inf"))
                assert early.deadline < late.came + PATIENCE_S


@repeatable
@given(script=scripts, **limits)
def test_what_was_given_up_before_its_batch_is_never_computed(
    script: list[tuple[str, int, int, int, str]], size: int, cost: int | None
) -> None:
    world = World(size, cost)

    async def run() -> None:
        async with asyncio.timeout(30):
            await world.play(script)
            begun = {number for one in world.passes for number in one}
            doomed = [call for call in world.calls if call.number not in begun and call.number % 2]
            for call in doomed:
                assert call.task
                call.task.cancel()
            await world.end()
            computed = {number for one in world.passes for number in one}
            assert not computed & {call.number for call in doomed}
            left = [call for call in world.calls if call.kind == "good" and call.deadline is None]
            assert all(call.number in computed or (call.task and call.task.cancelled()) for call in left)

    asyncio.run(run())


async def closed(world: World) -> None:
    """Close with a pass under way: that ends, all else that waits is refused."""
    running = set(world.passes[-1]) if world.inside else set()
    waiting = [call for call in world.calls if call.task and not call.task.done() and call.number not in running]
    begun = {number for one in world.passes for number in one}
    closing = asyncio.create_task(world.batcher.close())
    await asyncio.sleep(0)
    world.permit.release(100)
    await closing
    for call in waiting:
        if call.number in begun:  # its second try, after a poisonous one: that batch still ends
            continue
        assert call.task
        error = call.task.exception()
        assert isinstance(error, StageError)
        assert error.code == "cancelled"
        assert all(call.number not in one for one in world.passes)
    with pytest.raises(StageError, match="cancelled"):
        await world.batcher.submit(0)


@repeatable
@given(script=scripts, **limits)
def test_close_leaves_nobody_waiting(script: list[tuple[str, int, int, int, str]], size: int, cost: int | None) -> None:
    world = World(size, cost)
    played(world, script, close_early=True)
    assert not world.open()
