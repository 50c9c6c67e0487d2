"""One request to an ASGI application, message by message, by a test that says when each of them comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Scope


class Call:
    """A `POST`, under way in a task of its own.

    Attributes:
        reads: messages that the application has asked for.
        wants: set while the application waits for a message that has not come.
    """

    def __init__(self, app: ASGIApp, headers: Mapping[str, str] | None = None, path: str = "/v1/segment") -> None:
        self.reads = 0
        self.wants = asyncio.Event()
        self.sent: list[Message] = []
        self._coming: asyncio.Queue[Message] = asyncio.Queue()
        given = {"content-type": "application/json", **(headers or {})}
        scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "state": {},
        }
        self.task = asyncio.ensure_future(self._run(app, scope))

    def body(self, data: bytes, *, more: bool = False) -> None:
        self._coming.put_nowait({"type": "http.request", "body": data, "more_body": more})

    def leave(self) -> None:
        self._coming.put_nowait({"type": "http.disconnect"})

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers and parsed body, once the application is through."""
        await asyncio.wait_for(self.task, 20)
        headers = {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}
        text = b"".join(message.get("body", b"") for message in self.sent[1:])
        return self.sent[0]["status"], headers, json.loads(text) if text else None

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        await app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        self.reads += 1
        if self._coming.empty():
            self.wants.set()
        message = await self._coming.get()
        self.wants.clear()
        return message

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
