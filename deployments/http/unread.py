"""What becomes of a body that was not read, as the request was answered before."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.body import announced_length

DRAINED_BYTES = 64 * 2**20  # the longest body that may be: a proxy in front loses an answer that ends what it sends


class CloseUnread:
    """Ends the connection after an answer that came before the end of a long body, or of one of unknown length.

    A server lets what comes after an answer run into nothing, so that the connection can be used again. That costs no
    memory and is kind to clients that write everything before they read anything; but a body need not end. So it is
    left at that for up to `DRAINED_BYTES` that were announced, unless they were waited for in vain (408).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        unread, long = True, _may_be_long(scope)

        async def receiving() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and bool(message.get("more_body", False))
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and unread and (long or message["status"] == 408):
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        return await self._app(scope, receiving, sending)


def _may_be_long(scope: Scope) -> bool:
    length = announced_length(scope["headers"])
    if length is not None:
        return length > DRAINED_BYTES
    return any(name.lower() == b"transfer-encoding" for name, _ in scope["headers"])
