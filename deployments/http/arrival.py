"""A request's body has to arrive in time, and its sender has to stay: else there is nothing to work on."""

from __future__ import annotations

import asyncio

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.http.answers import CLIENT_CLOSED_REQUEST
from deployments.http.errors import ApiError


class Arrival:
    """Raises `deadline_exceeded` to whoever reads a body that drips, and gives up the work for a client that has gone.

    Serve's proxy cancels a request whose client has gone, unless the client asked it not to
    (`x-request-disconnect-disabled`); plain ASGI servers only say so to who listens. Here somebody listens, from the
    end of the body to the beginning of the answer: before, whoever reads the body hears of it.

    Args:
        max_body_s: seconds from the request's header to the end of its body.
    """

    def __init__(self, app: ASGIApp, max_body_s: float) -> None:
        self._app = app
        self._max_body_s = max_body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        until = asyncio.get_running_loop().time() + self._max_body_s
        arrived, gone = asyncio.Event(), asyncio.Event()
        worker = asyncio.current_task()
        assert worker is not None

        async def receiving() -> Message:
            if arrived.is_set():  # the watcher reads now
                await gone.wait()
                return {"type": "http.disconnect"}
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                text = f"the whole body must arrive within {self._max_body_s:g} seconds"
                raise ApiError("deadline_exceeded", text) from None
            if message["type"] == "http.request" and not message.get("more_body", False):
                arrived.set()
            return message

        async def watch() -> None:
            await arrived.wait()
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            worker.cancel()

        async def sending(message: Message) -> None:
            watching.cancel()  # there is nothing left to give up, and a server calls the end of an answer a disconnect
            await send(message)

        watching = asyncio.create_task(watch())
        try:
            await self._app(scope, receiving, sending)
        except asyncio.CancelledError:
            if not gone.is_set() or worker.uncancel():
                raise
            await Response(status_code=CLIENT_CLOSED_REQUEST)(scope, receive, send)
        finally:
            watching.cancel()
