"""The DAG of one request over fake stages: what runs when, what is given up, what is repeated."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deployments.image_ids import ImageIds
from deployments.ingress import Ingress, Order, ServedModel
from deployments.retry import StageLostError, with_retries
from pipeline.errors import StageError
from pipeline.image import ImageLimits
from pipeline.prompt import parse_classes
from pipeline.result import Result
from pipeline.selection import SelectionOptions, select
from pipeline.stages import DecodeOptions, DetectRequest
from tests.deployments.fakes import FakeStages, picture

LOST = StageLostError()
INPUT_LOST = StageLostError(input_lost=True)


async def never_asked() -> bool:
    raise AssertionError


async def segment(stages: FakeStages, prompt: str = "car, wheel", *, timeout_s: float = 20) -> Result:
    model = ServedModel("tiny+tiny", stages)
    order = Order(DetectRequest(parse_classes(prompt)), SelectionOptions(), DecodeOptions())
    ingress = Ingress((model,), ImageLimits(), never_asked, ImageIds("a secret"))
    return await ingress.segment(picture(), order, model, time.time() + timeout_s)


class Gate:
    """Holds the stages named in `held` until they are let go; knows which have come."""

    def __init__(self, *held: str) -> None:
        self.open = {name: asyncio.Event() for name in held}
        self.come = {name: asyncio.Event() for name in ("detect", "encode", "decode")}

    async def __call__(self, name: str) -> None:
        self.come[name].set()
        if name in self.open:
            await self.open[name].wait()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(limited())


def test_detector_and_encoder_run_at_the_same_time() -> None:
    async def test() -> None:
        gate = Gate("detect", "encode")
        stages = FakeStages(gate=gate)
        request = asyncio.create_task(segment(stages))
        await gate.come["detect"].wait()
        await gate.come["encode"].wait()  # neither has answered yet
        assert stages.finished == []
        gate.open["detect"].set()
        gate.open["encode"].set()
        assert len(await request) == 2
        assert stages.calls == ["hold", "detect", "encode", "decode"] or stages.calls == [
            "hold",
            "encode",
            "detect",
            "decode",
        ]

    run(test)


def test_the_encoder_is_given_up_when_nothing_is_found() -> None:
    async def test() -> None:
        stages = FakeStages(gate=Gate("encode"))
        result = await segment(stages, "nothing")
        assert len(result) == 0
        assert result.rles == ()
        await asyncio.sleep(0)  # the cancellation reaches the task
        assert stages.cancelled == ["encode"]
        assert "decode" not in stages.calls

    run(test)


def test_selecting_of_many_does_not_hold_up_other_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    others_go_on = threading.Event()

    def slow(*arguments: Any) -> Any:
        assert others_go_on.wait(10), "the loop stood still"
        return select(*arguments)

    monkeypatch.setattr("deployments.detect_first.select", slow)
    monkeypatch.setattr("deployments.detect_first._FEW_CANDIDATES", 1)

    async def test() -> None:
        stages = FakeStages()
        request = asyncio.create_task(segment(stages))
        while "detect" not in stages.finished:
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.01, others_go_on.set)
        assert len(await request) == 2

    run(test)


def test_a_refused_request_gives_up_the_encoder() -> None:
    async def test() -> None:
        stages = FakeStages({"detect": [StageError("invalid_value", "no")]}, gate=Gate("encode"))
        with pytest.raises(StageError):
            await segment(stages)
        await asyncio.sleep(0)
        assert stages.cancelled == ["encode"]

    run(test)


@pytest.mark.parametrize("held", ["detect", "encode", "decode"])
def test_a_caller_who_leaves_takes_the_work_along(held: str) -> None:
    async def test() -> None:
        gate = Gate(held)
        stages = FakeStages(gate=gate)
        request = asyncio.create_task(segment(stages))
        await gate.come[held].wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert stages.cancelled == [held]

    run(test)


def test_an_answer_leaves_nothing_to_cancel() -> None:
    async def test() -> None:
        stages = FakeStages()
        await segment(stages)
        await asyncio.sleep(0)
        assert stages.cancelled == []

    run(test)


@pytest.mark.parametrize(
    ("failures", "calls"),
    [
        ({"detect": [LOST]}, {"hold": 2, "detect": 2, "encode": 1, "decode": 1}),
        ({"detect": [LOST, LOST]}, {"hold": 3, "detect": 3, "encode": 1, "decode": 1}),
        # The decoder died: the embedding is still there.
        ({"decode": [LOST]}, {"hold": 1, "detect": 1, "encode": 1, "decode": 2}),
        # The embedding is lost: encode and decode again, not detect.
        ({"decode": [INPUT_LOST]}, {"hold": 2, "detect": 1, "encode": 2, "decode": 2}),
        ({"encode": [INPUT_LOST]}, {"hold": 2, "detect": 1, "encode": 2, "decode": 1}),
        ({"decode": [INPUT_LOST, LOST]}, {"hold": 2, "detect": 1, "encode": 2, "decode": 3}),
        (
            {"detect": [LOST], "encode": [INPUT_LOST], "decode": [LOST]},
            {"hold": 3, "detect": 2, "encode": 2, "decode": 2},
        ),
    ],
)
def test_what_was_lost_and_what_depends_on_it_runs_again(
    failures: dict[str, list[Exception | None]], calls: dict[str, int]
) -> None:
    async def test() -> None:
        undisturbed = await segment(FakeStages())
        stages = FakeStages(failures)
        assert await segment(stages) == undisturbed
        assert {name: stages.calls.count(name) for name in calls} == calls

    run(test)


@pytest.mark.parametrize("stage", ["detect", "decode"])
@pytest.mark.parametrize("error", [StageError("internal", "x"), RuntimeError("x")])
def test_an_application_error_is_not_repeated(stage: str, error: Exception) -> None:
    async def test() -> None:
        stages = FakeStages({stage: [error]})
        with pytest.raises(type(error)):
            await segment(stages)
        assert stages.calls.count(stage) == 1

    run(test)


def test_three_attempts_are_the_most() -> None:
    async def test() -> None:
        stages = FakeStages({"detect": [LOST] * 5})
        with pytest.raises(StageLostError):
            await segment(stages)
        assert stages.calls.count("detect") == 3

    run(test)


def test_no_attempt_begins_after_the_deadline() -> None:
    async def test() -> None:
        attempts = []

        async def attempt(number: int) -> None:
            attempts.append(number)
            raise StageLostError

        with pytest.raises(StageLostError):
            await with_retries(attempt, deadline=100.0, clock=lambda: 99.99)
        assert attempts == [0]

    run(test)


def test_a_deadline_that_is_over_is_a_timeout() -> None:
    async def test() -> None:
        with pytest.raises(TimeoutError):
            await segment(FakeStages(), timeout_s=-1)

    run(test)
