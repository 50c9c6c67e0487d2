"""Lets in who has a key. What is not open by name is closed: every path, known or not, and every method."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from typing import Any

from starlette._utils import get_route_path  # the router's own: two readings of one path would be a way around
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.auth_settings import KeyEntry, digest_of
from deployments.http.errors import ApiError, error_response
from deployments.http.facts import facts

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json"})  # they show no model and no data
STATIC_PREFIX = "/static/"
_STATIC = re.compile(STATIC_PREFIX + r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")
_POLICY_VIOLATION = 1008  # of a websocket; there is none here, and none is opened without a key


def tenant_of(scope: Scope) -> str:
    """The owner of the key that `scope` came with; `""` where no keys are asked for."""
    tenant: str = scope.get("state", {}).get("tenant", "")
    return tenant


def is_open(scope: Scope) -> bool:
    """Whether the request needs no key. Paths are compared as the router does: letter by letter, nothing tidied up."""
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    path = get_route_path(scope)
    return path in OPEN_PATHS or _STATIC.fullmatch(path) is not None


class Authenticate:
    """`Authorization: Bearer KEY`, or 401 before a byte of the body is read; the owner goes to `state["tenant"]`.

    There is one way to send a key. With a second one, somebody decides which of two keys counts, and every proxy's log
    has one more header to leave out.

    Args:
        entries: of the keys that are let in; without any, nobody is.
    """

    def __init__(self, app: ASGIApp, entries: Iterable[KeyEntry]) -> None:
        self._app = app
        self._entries = tuple((entry.owner, entry.sha256) for entry in entries)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        given = _authorization(scope)
        if is_open(scope):
            return await self._app(_without_key(scope), receive, send)
        owner = self._owner_of(given)
        if owner is not None:
            facts().owner = owner
            return await self._app(_without_key(scope, tenant=owner), receive, send)
        if scope["type"] == "http":
            refusal = error_response(ApiError("unauthenticated"), {"www-authenticate": "Bearer"})
            return await refusal(scope, receive, send)
        return await send({"type": "websocket.close", "code": _POLICY_VIOLATION})

    def _owner_of(self, given: list[bytes]) -> str | None:
        if len(given) != 1:  # two of them: another part of the way may have looked at the other one
            return None
        scheme, _, key = given[0].partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        digest = digest_of(key.strip(b" "))
        owner = None
        for name, stored in self._entries:  # all of them, each in constant time: how long it takes tells nothing
            owner = name if hmac.compare_digest(stored, digest) else owner
        return owner


def _authorization(scope: Scope) -> list[bytes]:
    return [value for name, value in scope["headers"] if name.lower() == b"authorization"]


def _without_key(scope: Scope, **state: Any) -> Scope:
    """`scope` for what lies further in, where nothing can log or show a key, as it is not there."""
    headers = [(name, value) for name, value in scope["headers"] if name.lower() != b"authorization"]
    return {**scope, "headers": headers, "state": {**scope.get("state", {}), **state}}
