"""Whether every deployment of this app could answer, by the controller's own account: no stage is called."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from ray.serve._private.common import DeploymentStatusInfo, ReplicaState
from ray.serve.context import _get_global_client
from ray.serve.generated import serve_pb2
from ray.serve.schema import ApplicationStatusOverview, DeploymentStatusOverview

from deployments.logs import LOGGER

logger = logging.getLogger(LOGGER)

TIMEOUT_S = 5.0
MAX_AGE_S = 1.0  # probes from many load balancers cost the controller one call a second

# While these last, the controller is content: scaled to zero is healthy, and scaling is no outage.
_CONTENT = {"HEALTHY", "UPSCALING", "DOWNSCALING"}
_messages: Any = serve_pb2  # made by protoc, without types
_STAGES = ("detector-", "image-encoder-", "mask-decoder-")  # each begins the names of its models' deployments


class Readiness:
    """Asks the controller at most once in `MAX_AGE_S`, in a thread of its own: `serve.status` blocks.

    While the controller hangs, one thread hangs with it, and not one more for each probe.
    """

    def __init__(self, app_name: str) -> None:
        self._app_name = app_name
        self._known = False
        self._until = 0.0
        self._asking = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="readiness")

    async def __call__(self) -> bool:
        async with self._asking:
            if time.monotonic() >= self._until:
                self._known = await self._ask()
                self._until = time.monotonic() + MAX_AGE_S
            return self._known

    async def _ask(self) -> bool:
        try:
            asked = asyncio.get_running_loop().run_in_executor(self._thread, _is_ready, self._app_name)
            return await asyncio.wait_for(asked, TIMEOUT_S)
        except Exception:  # the controller is away: requests may still pass, but nobody can vouch for it
            logger.warning("The Serve controller does not tell its status.", exc_info=True)
            return False


def _is_ready(app_name: str) -> bool:
    app = serve.status().applications.get(app_name)
    if app is not None and not app.deployments:
        # While a new version is built, and for as long as the last one could not be, the controller counts no
        # deployment to the app. The version before answers on, this replica with it.
        app = replace(app, deployments=_still_there(app_name))
        if app.status == "DEPLOY_FAILED" and _sleeps_for_good(app):
            return False
    return app is not None and is_ready(app)


def is_ready(app: ApplicationStatusOverview) -> bool:
    """Each deployment is where the controller wants it, or has a running (so, warm) replica meanwhile."""
    return bool(app.deployments) and all(
        deployment.status.value in _CONTENT or _runs(deployment) for deployment in app.deployments.values()
    )


def _still_there(app_name: str) -> dict[str, DeploymentStatusOverview]:
    """The app's deployments as they are, whatever they are to become."""
    client: Any = _get_global_client()
    controller = client._controller
    found = {}
    for deployment, running in ray.get(controller._all_running_replicas.remote()).items():
        if deployment.app_name != app_name:
            continue
        status = ray.get(controller.get_deployment_status.remote(deployment.name, app_name))
        if status is None:  # gone meanwhile
            continue
        told = DeploymentStatusInfo.from_proto(_messages.DeploymentStatusInfo.FromString(status))
        found[deployment.name] = DeploymentStatusOverview(
            status=told.status,
            status_trigger=told.status_trigger,
            replica_states={ReplicaState.RUNNING: len(running)},
            message=told.message,
        )
    return found


def _sleeps_for_good(app: ApplicationStatusOverview) -> bool:
    """No model of some stage has a replica. Nobody would wake one: without a version, the controller scales nothing."""
    for stage in _STAGES:
        models = [one for name, one in app.deployments.items() if name.startswith(stage)]
        if models and not any(map(_runs, models)):
            return True
    return False


def _runs(deployment: DeploymentStatusOverview) -> bool:
    return any(count and state == "RUNNING" for state, count in deployment.replica_states.items())
