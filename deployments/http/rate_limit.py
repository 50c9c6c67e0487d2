"""How often the owner of a key may ask: a token bucket for each, in each ingress replica."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.http.auth import tenant_of
from deployments.http.errors import ApiError, error_response
from deployments.http.facts import facts

BURST_S = 10  # the requests of so many seconds may come at once, one at least: a minute may see a sixth more


class RateLimit:
    """429 with `Retry-After`, before a byte of the body is read, for an owner who asks too often.

    What is refused does not count. Memory is one bucket for each owner with a limit, made here once: who has no key
    never gets this far. Every request that needs a key counts, also one that fails.

    Args:
        per_minute: requests a minute by owner; who is not in it has no limit.
        clock: seconds, never backwards.
    """

    def __init__(
        self, app: ASGIApp, per_minute: Mapping[str, int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._buckets = {owner: _Bucket(number) for owner, number in per_minute.items()}
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        bucket = self._buckets.get(tenant_of(scope)) if scope["type"] == "http" else None
        wait_s = 0.0 if bucket is None else bucket.take(self._clock())
        if not wait_s:
            return await self._app(scope, receive, send)
        facts().limit = "rate_limit"
        refusal = error_response(ApiError("rate_limited"), {"retry-after": str(math.ceil(wait_s))})
        return await refusal(scope, receive, send)


class _Bucket:
    """A token bucket as one number: the time at which it will be full again."""

    def __init__(self, per_minute: int) -> None:
        self._interval_s = 60 / per_minute
        self._slack_s = (max(1, per_minute * BURST_S // 60) - 1) * self._interval_s
        self._full_at = -math.inf

    def take(self, now: float) -> float:
        """0 if there was a token, which is gone now, or else the seconds until there is one."""
        wait_s = self._full_at - self._slack_s - now
        if wait_s > 0:
            return wait_s
        self._full_at = max(self._full_at, now) + self._interval_s
        return 0.0
