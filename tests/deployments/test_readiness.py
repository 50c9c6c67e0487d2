"""When the app counts as ready. Needs ray, but no cluster."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from ray.serve import schema as serve_schema
from ray.serve._private.common import DeploymentID, DeploymentStatusInfo, DeploymentStatusTrigger

from deployments.readiness import Readiness, is_ready

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


class Controller:
    """Serve's, when it counts no deployment to any app: what is still there of them, by (app, deployment)."""

    def __init__(self, there: dict[tuple[str, str], tuple[str, int]]) -> None:
        self._controller = self
        self._all_running_replicas = SimpleNamespace(remote=self._replicas)
        self.get_deployment_status = SimpleNamespace(remote=self._status)
        self._there = there

    def _replicas(self) -> dict[DeploymentID, list[str]]:
        return {DeploymentID(name, app): ["replica"] * count for (app, name), (_, count) in self._there.items()}

    def _status(self, name: str, app: str) -> bytes:
        status, trigger = schema.DeploymentStatus(self._there[app, name][0]), "CONFIG_UPDATE_STARTED"
        told = DeploymentStatusInfo(name, status, DeploymentStatusTrigger(trigger))
        content: bytes = told.to_proto().SerializeToString()
        return content


@pytest.mark.parametrize(
    ("app", "there", "ready"),
    [
        ("DEPLOY_FAILED", {"ingress": ("HEALTHY", 1), "detector-tiny": ("UPSCALING", 1)}, True),
        ("DEPLOY_FAILED", {"ingress": ("HEALTHY", 1), "detector-tiny": ("UNHEALTHY", 0)}, False),
        ("DEPLOY_FAILED", {"ingress": ("HEALTHY", 1), "detector-tiny": ("UPDATING", 1)}, True),  # as `is_ready` has it
        ("DEPLOY_FAILED", {}, False),
        # Scaled to zero: it wakes when this version is there. Of one that failed nobody wakes it.
        ("DEPLOYING", {"ingress": ("HEALTHY", 1), "detector-tiny": ("HEALTHY", 0)}, True),
        ("DEPLOY_FAILED", {"ingress": ("HEALTHY", 1), "detector-tiny": ("HEALTHY", 0)}, False),
        ("DEPLOY_FAILED", {"detector-tiny": ("HEALTHY", 1), "detector-other": ("HEALTHY", 0)}, True),
    ],
)
def test_while_no_version_is_built_the_one_before_counts(
    app: str, there: dict[str, tuple[str, int]], ready: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The controller's account of such a moment, as Serve 2.60 gives it: the app names no deployment, all still run."""
    both = {"app": replace(application(), status=app), "another": replace(application(), status=app)}
    controller = Controller(
        {("app", name): told for name, told in there.items()} | {("another", "x"): ("UNHEALTHY", 0)}
    )
    monkeypatch.setattr("deployments.readiness.serve.status", lambda: SimpleNamespace(applications=both))
    monkeypatch.setattr("deployments.readiness.ray.get", lambda value: value)
    monkeypatch.setattr("deployments.readiness._get_global_client", lambda: controller)
    assert asyncio.run(Readiness("app")()) is ready
    assert not asyncio.run(Readiness("another")())
    assert not asyncio.run(Readiness("nobody's")())


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
