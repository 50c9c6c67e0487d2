"""Header values that whoever stands behind may decode."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class PlainHeaders:
    """Replaces what is not UTF-8 in a request's header values by U+FFFD.

    Serve's proxy decodes some of them (`traceparent`, `x-request-timeout-seconds`, `x-session-id` and others) and fails
    on what is not UTF-8: with 500, without an id, whoever asks. So mended, each is as wrong as it was, and is refused
    or passed over as other wrong values are.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "headers" in scope:
            scope = {**scope, "headers": [(name, _decodable(value)) for name, value in scope["headers"]]}
        return await self._app(scope, receive, send)


def _decodable(value: bytes) -> bytes:
    return value if value.isascii() else value.decode("utf-8", "replace").encode()
