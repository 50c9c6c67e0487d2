"""Whether every deployment of this app could answer, by the controller's own account: no stage is called."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor

from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatusOverview

from deployments.logs import LOGGER

logger = logging.getLogger(LOGGER)

TIMEOUT_S = 5.0
MAX_AGE_S = 1.0  # probes from many load balancers cost the controller one call a second

# While these last, the controller is content: scaled to zero is healthy, and scaling is no outage.
_CONTENT = {"HEALTHY", "UPSCALING", "DOWNSCALING"}


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
    if app is None or app.deployments:
        return app is not None and is_ready(app)
    # While a new version is built, and for as long as the last one could not be, the controller counts no deployment to
    # the app. The version before answers on, this replica with it; the controller still knows the state of each.
    client = _get_global_client()
    statuses = client.get_all_deployment_statuses() if client else []
    return bool(statuses) and all(deployment.status.value in _CONTENT for deployment in statuses)


def is_ready(app: ApplicationStatusOverview) -> bool:
    """Each deployment is where the controller wants it, or has a running (so, warm) replica meanwhile."""
    return bool(app.deployments) and all(
        deployment.status.value in _CONTENT
        or any(count and state == "RUNNING" for state, count in deployment.replica_states.items())
        for deployment in app.deployments.values()
    )
