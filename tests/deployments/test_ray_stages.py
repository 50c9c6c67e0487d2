"""What Ray's exceptions mean, and when the app counts as ready. Needs ray, but no cluster."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from ray import exceptions
from ray.serve import schema as serve_schema
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException, ReplicaUnavailableError

from deployments.ray_stages import RayStages, meaning
from deployments.readiness import Readiness, is_ready
from deployments.retry import StageLostError
from pipeline.errors import StageError


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


schema: Any = serve_schema  # its enums are not exported for type checkers


def application(**deployments: tuple[str, dict[str, int]]) -> Any:
    return schema.ApplicationStatusOverview(
        status="RUNNING",
        message="",
        last_deployed_time_s=0,
        deployments={
            name: schema.DeploymentStatusOverview(
                status=schema.DeploymentStatus(status),
                status_trigger=None,
                replica_states=states,  # plain texts, as the controller fills them in
                message="",
            )
            for name, (status, states) in deployments.items()
        },
    )


@pytest.mark.parametrize(
    ("status", "states", "ready"),
    [
        ("HEALTHY", {"RUNNING": 1}, True),
        ("HEALTHY", {}, True),  # scaled to zero: wakes on its first request
        ("UPSCALING", {"STARTING": 1}, True),  # from zero
        ("UPDATING", {"STARTING": 1}, False),
        ("UPDATING", {"STARTING": 1, "RUNNING": 1}, True),  # a rolling update
        ("UNHEALTHY", {"STARTING": 1}, False),
        ("UNHEALTHY", {"RUNNING": 1}, True),
        ("DEPLOY_FAILED", {}, False),
    ],
)
def test_ready_is_by_the_controllers_account(status: str, states: dict[str, int], ready: bool) -> None:
    assert is_ready(application(detector=("HEALTHY", {"RUNNING": 1}), decoder=(status, states))) is ready


def test_an_app_without_deployments_is_not_ready() -> None:
    assert not is_ready(application())


@pytest.mark.parametrize(
    ("statuses", "ready"), [(["HEALTHY", "UPSCALING"], True), (["HEALTHY", "UNHEALTHY"], False), ([], False)]
)
def test_a_version_that_cannot_be_built_leaves_the_one_before_ready(
    statuses: list[str], ready: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller's account of such a moment, as Serve 2.60 gives it: the app names no deployment, all still run."""
    running = [SimpleNamespace(status=schema.DeploymentStatus(status)) for status in statuses]
    controller = SimpleNamespace(get_all_deployment_statuses=lambda: running)
    monkeypatch.setattr(
        "deployments.readiness.serve.status", lambda: SimpleNamespace(applications={"app": application()})
    )
    monkeypatch.setattr("deployments.readiness._get_global_client", lambda: controller)
    assert asyncio.run(Readiness("app")()) is ready
    assert not asyncio.run(Readiness("another")())


def test_a_controller_that_hangs_costs_one_thread_however_often_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    release = threading.Event()

    def hang() -> None:
        asked.append(threading.get_ident())
        release.wait(30)

    monkeypatch.setattr("deployments.readiness.serve.status", hang)
    monkeypatch.setattr("deployments.readiness.TIMEOUT_S", 0.05)
    monkeypatch.setattr("deployments.readiness.MAX_AGE_S", 0.0)

    async def probe() -> list[bool]:
        readiness = Readiness("app")
        return [await readiness() for _ in range(4)]

    try:
        assert asyncio.run(probe()) == [False] * 4
        assert len(asked) == 1
    finally:
        release.set()
