"""The HTTP application in force: another one takes its place between two requests."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import BaseRoute, Router
from starlette.types import Receive, Scope, Send


class CurrentApp:
    """Hands each request to `app`. Those under way end where they began.

    Serve holds on to this one object; of it, it reads the routes, for the names of metrics.
    """

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    @property
    def routes(self) -> list[BaseRoute]:
        return self.app.routes

    @property
    def router(self) -> Router:
        return self.app.router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
