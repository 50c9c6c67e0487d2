"""How much one ingress replica takes on at a time: what is too much is refused before its body is read."""

from __future__ import annotations

from starlette._utils import get_route_path  # the router's own
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.body import announced_length
from deployments.http.errors import ApiError, error_response
from deployments.http.facts import facts

PREFIX = "/v1/"


class Admission:
    """429 with `Retry-After` where a `POST /v1/*` is one too many, or its body too long for what is left.

    Nobody waits here: who is refused knows it at once, and who is admitted finds at most `max_requests - 1` ahead.

    An announced length is set aside from the start, so that a body that was let in is also read to its end. One that
    is not announced counts while it is read, and ends in 429 where no room is left. So does one that announces more
    than there could ever be: the route refuses it by its header.

    Args:
        max_requests: from their headers to the end of their answers.
        max_body_bytes: of those requests' bodies, in all.
    """

    def __init__(self, app: ASGIApp, max_requests: int, max_body_bytes: int) -> None:
        self._app = app
        self._max_requests = max_requests
        self._max_body_bytes = max_body_bytes
        self._requests = 0
        self._body_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not get_route_path(scope).startswith(PREFIX):
            return await self._app(scope, receive, send)
        length = announced_length(scope["headers"]) or 0
        held = length if length <= self._max_body_bytes else 0
        if self._requests >= self._max_requests or not self._fits(held):
            facts().limit = "bytes" if self._requests < self._max_requests else "requests"
            return await error_response(ApiError("overloaded"))(scope, receive, send)
        read = 0

        async def counting() -> Message:
            nonlocal held, read
            message = await receive()
            read += len(message.get("body", b""))
            more = max(0, read - held)
            if not self._fits(more):
                facts().limit = "bytes"
                raise ApiError("overloaded")
            self._body_bytes += more
            held += more
            return message

        self._requests += 1
        self._body_bytes += held
        try:
            return await self._app(scope, counting, send)
        finally:
            self._requests -= 1
            self._body_bytes -= held

    def _fits(self, more: int) -> bool:
        return self._body_bytes + more <= self._max_body_bytes
