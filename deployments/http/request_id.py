"""One id a request, which is safe to log: the caller's where it is harmless, else a new one. Every answer echoes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from uuid import uuid4

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"
_HARMLESS = re.compile(rb"[A-Za-z0-9._:-]{1,128}")  # as in configs/nginx.conf


def chosen(given: Sequence[bytes]) -> bytes:
    """The one value of the header, where there is one and it is harmless; else a new id."""
    if len(given) == 1 and _HARMLESS.fullmatch(given[0]):
        return given[0]
    return str(uuid4()).encode()


def id_of(scope: Scope) -> str:
    """The one that `RequestId` has made sure of; "" where it has not been."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == HEADER), "")


class RequestId:
    """Sees to it that a request, on its way in, and its answer have exactly one `x-request-id`, and the same.

    A request that gets no answer, as from Serve's proxy where the ingress dies under it, gets a 500 in plain text. The
    server would give it the same without an id.

    Args:
        echoed: whoever stands in front echoes the id that it passes on, as Serve's proxy does; so the answer gets one
            here only where that was replaced.
    """

    def __init__(self, app: ASGIApp, echoed: bool = False) -> None:
        self._app = app
        self._echoed = echoed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        given = [value for name, value in scope["headers"] if name.lower() == HEADER]
        id_ = chosen(given)
        others = [(name, value) for name, value in scope["headers"] if name.lower() != HEADER]
        answer_has_it = self._echoed and given == [id_]
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start" and not answer_has_it:
                headers = [one for one in message.get("headers", ()) if one[0].lower() != HEADER]
                message = {**message, "headers": [*headers, (HEADER, id_)]}
            await send(message)

        await self._app({**scope, "headers": [*others, (HEADER, id_)]}, receive, sending)
        if started or scope["type"] != "http":
            return None
        return await PlainTextResponse("Internal Server Error", 500)(scope, receive, sending)
