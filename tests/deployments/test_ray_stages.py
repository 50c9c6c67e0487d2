"""What Ray's exceptions and the stages' refusals mean. Needs ray, but no cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, get_args
from unittest.mock import AsyncMock, MagicMock

import pytest
from ray import exceptions
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException, ReplicaUnavailableError

from deployments.calls import Calls
from deployments.http.errors import STATUS
from deployments.ray_stages import RayStages, meaning
from deployments.retry import StageLostError
from pipeline.errors import ErrorCode, StageError


def task_error(cause: Exception) -> Exception:
    error: Exception = exceptions.RayTaskError("f", "traceback", cause).as_instanceof_cause()
    return error


def upstream_died() -> Exception:
    error = RayServeException("an upstream actor died")
    error.__cause__ = task_error(exceptions.ActorDiedError())
    return error


@pytest.mark.parametrize("nesting", [1, 2])
def test_a_stages_refusal_comes_back_as_it_was(nesting: int) -> None:
    error: Exception = StageError("image_undecodable", "the image is truncated", "image")
    for _ in range(nesting):
        error = task_error(error)
    found = meaning(error)
    assert type(found) is StageError
    assert (found.code, found.message, found.param) == ("image_undecodable", "the image is truncated", "image")


@pytest.mark.parametrize(
    ("error", "input_lost"),
    [
        (exceptions.ActorDiedError(), False),
        (exceptions.ActorUnavailableError("gone", b"0" * 16), False),
        (exceptions.WorkerCrashedError(), False),
        (DeploymentUnavailableError(DeploymentID("detector", "app")), False),
        (ReplicaUnavailableError("replica"), False),
        (task_error(exceptions.ActorDiedError()), True),
        (exceptions.ObjectLostError("00" * 28, b"", ""), True),
        (task_error(exceptions.OwnerDiedError("00" * 28, b"", "")), True),
        (upstream_died(), True),
    ],
)
def test_deaths_and_losses_are_worth_another_attempt(error: Exception, input_lost: bool) -> None:
    found = meaning(error)
    assert isinstance(found, StageLostError)
    assert found.input_lost is input_lost


@pytest.mark.parametrize("error", [RuntimeError("x"), RayServeException("x"), task_error(ValueError("x"))])
def test_anything_else_stays_what_it_is(error: Exception) -> None:
    assert meaning(error) is error


def test_a_cancelled_call_is_a_refusal() -> None:
    found = meaning(exceptions.TaskCancelledError())
    assert isinstance(found, StageError)
    assert found.code == "cancelled"


class Method:
    """A handle's: each call's answer is the next one, or what it makes of the arguments."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        self._answer = answer
        self.calls = 0

    def options(self, **_: Any) -> Any:
        return self

    def remote(self, *arguments: Any) -> Any:
        async def answered() -> Any:
            given = [await value if isinstance(value, asyncio.Future) else value for value in arguments]
            return self._answer(number, *given)

        self.calls += 1
        number = self.calls
        called: Any = asyncio.ensure_future(answered())
        called._to_object_ref = AsyncMock(side_effect=OSError)  # nobody asks when it is there
        return called


@pytest.mark.parametrize("old", [1, 2, 3])
def test_an_embedding_of_other_weights_is_made_anew(old: int) -> None:
    """The first `old` are by a replica of the version before; the decoder's is of the one after."""

    def decoded(_: int, embedding: str, *__: Any) -> Any:
        return "masks" if embedding == "new" else StageError("other_weights", "not mine")

    encode = Method(lambda number, *_: "old" if number <= old else "new")
    decode = Method(decoded)
    encode.encode, decode.decode = encode, decode  # type: ignore[attr-defined]
    stages: Any = RayStages(MagicMock(), encode, decode)  # type: ignore[arg-type]

    async def asked() -> Any:
        with Calls(stages, b"image", b"image", None, time.time() + 60) as calls:
            return await calls.decode(calls.encode(), MagicMock(), MagicMock())

    if old < 3:
        assert asyncio.run(asked()) == "masks"
    else:
        with pytest.raises(StageLostError):  # 503: clients repeat it
            asyncio.run(asked())
    assert encode.calls == decode.calls == min(old + 1, 3)


def test_an_embedding_of_other_weights_is_lost_input_also_as_an_exception() -> None:
    found = meaning(task_error(StageError("other_weights", "not mine")))
    assert isinstance(found, StageLostError)
    assert found.input_lost


def test_all_other_refusals_have_a_status() -> None:
    assert set(get_args(ErrorCode)) - set(STATUS) == {"other_weights"}


@pytest.mark.parametrize("full", [exceptions.ObjectStoreFullError("x"), exceptions.OutOfDiskError("x")])
def test_no_room_in_the_object_store_is_to_be_asked_again(full: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(image: bytes) -> None:
        raise full

    monkeypatch.setattr("deployments.ray_stages.ray.put", put)
    with pytest.raises(StageError) as held:
        RayStages(MagicMock(), MagicMock(), MagicMock()).hold(bytes(100_000))
    for error in held.value, meaning(task_error(full)):  # of the image here, and of a stage's embedding
        assert isinstance(error, StageError)
        assert error.code == "cancelled"  # 503: clients repeat it
