"""A stage for many callers: what runs in which thread, and that only StageErrors come out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from deployments.stage_runner import StageRunner, model_threads
from deployments.stage_settings import StageSettings
from pipeline.errors import StageError


class Doubler:
    """A stage on integers. Odd keys and even keys do not share a batch."""

    def __init__(self) -> None:
        self.threads: dict[str, set[int]] = {"prepare": set(), "forward": set(), "finish": set()}
        self.batches: list[list[int]] = []

    def prepare(self, number: int) -> int:
        self.threads["prepare"].add(threading.get_ident())
        if number < 0:
            raise StageError("invalid_value", "negative", "number")
        if number == 13:
            raise RuntimeError("secret")
        return number

    def batch_key(self, item: int) -> object:
        return item % 2

    def cost(self, item: int) -> int:
        return 1

    def forward(self, batch: Sequence[int]) -> list[int]:
        self.threads["forward"].add(threading.get_ident())
        self.batches.append(list(batch))
        return [2 * item for item in batch]

    def finish(self, item: int, raw: int) -> str:
        self.threads["finish"].add(threading.get_ident())
        if raw == 2 * 17:
            raise RuntimeError("secret")
        return f"{item} -> {raw}"


def with_runner(test: Callable[[Doubler, StageRunner[int, int, str]], Awaitable[None]]) -> None:
    async def run() -> None:
        stage = Doubler()
        runner = StageRunner(stage, StageSettings())
        async with asyncio.timeout(30):
            await test(stage, runner)
            await runner.close()

    asyncio.run(run())


def test_many_callers_get_their_own_answers() -> None:
    async def test(stage: Doubler, runner: StageRunner[int, int, str]) -> None:
        numbers = [number for number in range(50) if number not in (13, 17)]
        answers = await asyncio.gather(*(runner.run(lambda n=number: stage.prepare(n), None) for number in numbers))  # type: ignore[misc]
        assert answers == [f"{number} -> {2 * number}" for number in numbers]
        assert sorted(item for batch in stage.batches for item in batch) == numbers
        assert all(len({item % 2 for item in batch}) == 1 for batch in stage.batches)

    with_runner(test)


def test_the_model_has_a_thread_of_its_own() -> None:
    async def test(stage: Doubler, runner: StageRunner[int, int, str]) -> None:
        runner.warm_up(lambda: stage.prepare(1))
        await asyncio.gather(*(runner.run(lambda: stage.prepare(2), None) for _ in range(20)))
        assert len(stage.threads["forward"]) == 1
        assert threading.get_ident() not in stage.threads["forward"]
        assert not stage.threads["forward"] & (stage.threads["prepare"] | stage.threads["finish"])

    with_runner(test)


@pytest.mark.parametrize(("number", "code"), [(-1, "invalid_value"), (13, "internal"), (17, "internal")])
def test_every_failure_comes_out_as_a_stage_error(number: int, code: str) -> None:
    async def test(stage: Doubler, runner: StageRunner[int, int, str]) -> None:
        with pytest.raises(StageError) as refusal:
            await runner.run(lambda: stage.prepare(number), None)
        assert refusal.value.code == code
        assert "secret" not in str(refusal.value)
        assert await runner.run(lambda: stage.prepare(4), None) == "4 -> 8"

    with_runner(test)


def test_late_work_is_not_even_prepared() -> None:
    async def test(stage: Doubler, runner: StageRunner[int, int, str]) -> None:
        with pytest.raises(StageError) as refusal:
            await runner.run(lambda: stage.prepare(1), time.time() - 1)
        assert refusal.value.code == "deadline_exceeded"
        assert stage.threads["prepare"] == set()

    with_runner(test)


def test_threads_are_half_of_the_cpus_unless_set() -> None:
    assert model_threads(3) == 3
    assert model_threads(0) >= 1
