"""One line in the log a request, its metrics, and `Server-Timing`. No texts of prompts and nothing of images."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping

from starlette._utils import get_route_path  # the router's own
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments import metrics
from deployments.http import errors
from deployments.http.answers import CLIENT_CLOSED_REQUEST
from deployments.http.facts import CURRENT, Facts
from deployments.http.request_id import id_of
from deployments.logs import LOGGER

logger = logging.getLogger(f"{LOGGER}.access")

_PROBES = ("/healthz", "/readyz")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observe:
    """Stands around everything that decides on a request, and answers for what escapes.

    Args:
        routes: paths that the log and the metrics call by their name; all others are one.
        access: whether each request gets its line. Probes get theirs at level DEBUG.
        clock: seconds, never backwards.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Collection[str],
        access: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._app = app
        self._routes = frozenset(routes)
        self._access = access
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begin = self._clock()
        known = Facts(id=id_of(scope))
        status = 0

        async def receiving() -> Message:
            message = await receive()
            known.body_bytes += len(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if get_route_path(scope).startswith("/v1/"):
                    total = round(1000 * (self._clock() - begin), 1)
                    header = (b"server-timing", server_timing({**known.timings_ms, "total": total}).encode())
                    message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        token = CURRENT.set(known)
        try:
            await self._app(scope, receiving, sending)
        except asyncio.CancelledError:
            status = status or CLIENT_CLOSED_REQUEST
            raise
        except Exception as error:
            if status:  # too late for another answer
                raise
            await errors.answer_to(error)(scope, receive, sending)
        finally:
            CURRENT.reset(token)
            self._tell(scope, known, status, 1000 * (self._clock() - begin))

    def _tell(self, scope: Scope, known: Facts, status: int, duration_ms: float) -> None:
        route = self._route(scope)
        record(known, route)
        if not self._access:
            return
        method = scope["method"] if scope["method"] in _METHODS else "other"
        found = {
            "owner": known.owner,
            "body_bytes": known.body_bytes,
            "pixels": known.pixels,
            "detections": known.detections,
            "code": known.code,
        }
        shown = " ".join(f"{name}={value}" for name, value in found.items() if value not in (None, "", 0))
        fields = {
            "request_id": known.id,
            "method": method,
            "http_route": route,  # `route` is Serve's own
            "status": status,
            "duration_ms": round(duration_ms, 1),
            **found,
        }
        level = logging.DEBUG if route in _PROBES else logging.INFO
        logger.log(level, "%s %s %d %.1fms %s", method, route, status, duration_ms, shown, extra=fields)

    def _route(self, scope: Scope) -> str:
        """Of few values, whatever is asked for."""
        path = get_route_path(scope)
        if path in self._routes:
            return path
        return "/static" if path.startswith("/static/") else "other"


def record(known: Facts, route: str) -> None:
    """The metrics of one request."""
    if known.code is not None:
        metrics.ERRORS.record(1, route=route, code=known.code)
    if known.limit is not None:
        metrics.REJECTIONS.record(1, reason=known.limit)
    if known.body_bytes:
        metrics.BODY_BYTES.record(known.body_bytes, route=route)
    if known.pixels is not None:
        metrics.PIXELS.record(known.pixels, route=route)
    if known.detections is not None:
        metrics.DETECTIONS.record(known.detections, route=route)


def server_timing(timings_ms: Mapping[str, float]) -> str:
    """The header's value, as browsers show it: `detect;dur=40.1, total;dur=61.0`."""
    return ", ".join(f"{name};dur={value}" for name, value in timings_ms.items())


class _WithRequestId(logging.Filter):
    """Gives our own lines the id; in a text log without access lines, Serve leaves it out."""

    def filter(self, line: logging.LogRecord) -> bool:
        known = CURRENT.get()
        if known is not None and not hasattr(line, "request_id"):
            line.request_id = known.id
        return True


logging.getLogger(LOGGER).addFilter(_WithRequestId())
