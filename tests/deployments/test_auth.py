"""Who is let in: nothing but the open paths answers without a key, and no key is ever shown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from deployments.auth_settings import AuthSettings
from deployments.http.auth import OPEN_PATHS, STATIC_PREFIX, Authenticate, tenant_of
from deployments.keys import issue
from tests.deployments.service import Service, refusal

KEY, ENTRY = issue("alice")
OTHER_KEY, OTHER_ENTRY = issue("bob")
AUTH = AuthSettings(keys=(ENTRY, OTHER_ENTRY))
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "NONSENSE")


def bearer(key: str, scheme: str = "Bearer") -> tuple[bytes, bytes]:
    return b"authorization", f"{scheme} {key}".encode()


class Door:
    """`Authenticate` before an application that notes what reaches it and answers 204."""

    def __init__(self, entries: Any = AUTH.keys) -> None:
        self.reached: list[Scope] = []
        self.app = Authenticate(self._inside, entries)

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached.append(scope)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    def ask(self, path: str = "/v1/segment", *headers: tuple[bytes, bytes], method: str = "POST", **more: Any) -> int:
        """The status of the answer; nothing of the body is read on the way."""
        return _status(self.app, path, headers, method, more)

    def tenant(self, *headers: tuple[bytes, bytes]) -> str:
        """Whom the application sees behind a request that is let in."""
        assert self.ask("/v1/segment", *headers) == 204
        return tenant_of(self.reached[-1])


def _status(app: Any, path: str, headers: Iterable[tuple[bytes, bytes]], method: str, more: dict[str, Any]) -> int:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was read")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        **more,
    }
    asyncio.run(app(scope, receive, send))
    status: int = sent[0]["status"]
    return status


def test_a_key_opens_and_its_owner_is_the_tenant() -> None:
    door = Door()
    assert door.tenant(bearer(KEY)) == "alice"
    assert door.tenant(bearer(OTHER_KEY)) == "bob"
    assert door.tenant(bearer(KEY, "bEARER")) == "alice"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [bearer("")],
        [bearer(KEY[:-1])],
        [bearer(KEY + "a")],
        [bearer(KEY.upper())],
        [bearer(ENTRY.sha256)],  # what is stored opens nothing
        [bearer(KEY, "Basic")],
        [bearer(KEY, "Bearer Bearer")],
        [(b"authorization", KEY.encode())],
        [(b"authorization", b"Bearer" + KEY.encode())],
        [(b"authorization", b"\xff\xfe")],
        [(b"x-api-key", KEY.encode())],
        [(b"cookie", b"authorization=Bearer " + KEY.encode())],
        [bearer(KEY), bearer(KEY)],
        [bearer("wrong"), bearer(KEY)],
        [bearer(KEY), (b"Authorization", b"Bearer wrong")],
    ],
)
def test_anything_else_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    door = Door()
    assert door.ask("/v1/segment", *headers) == 401
    assert not door.reached


def test_without_entries_nobody_is_let_in() -> None:
    assert Door(()).ask("/v1/segment", bearer(KEY)) == 401
    assert Door(()).ask("/v1/segment", bearer("")) == 401


def test_the_application_never_sees_the_key() -> None:
    door = Door()
    other = (b"x-request-id", b"7")
    for path in ("/v1/segment", "/healthz"):
        door.ask(path, bearer(KEY), other, method="GET")
        assert door.reached[-1]["headers"] == [other]


def test_a_state_that_requests_share_is_not_written_to() -> None:
    shared: dict[str, Any] = {"kept": 1}
    door = Door()
    door.ask("/v1/segment", bearer(KEY), state=shared)
    assert door.reached[-1]["state"] == {"kept": 1, "tenant": "alice"}
    assert shared == {"kept": 1}


def test_a_websocket_wants_a_key_too() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    door = Door()
    for path in ("/", "/v1/segment"):
        asyncio.run(door.app({"type": "websocket", "path": path, "headers": []}, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"] * 2
    assert not door.reached


TRICKS = [
    "//v1/segment",
    "/v1//segment",
    "/v1/./segment",
    "/v1/../v1/segment",
    "/healthz/../v1/segment",
    "/static/../v1/segment",
    "/static/%2e%2e/v1/segment",
    "/static//v1/segment",
    "/static/./x",
    "/static/.env",
    "/static/a\\..\\b",
    "/static/a;/b",
    "/static/",
    "/static",
    "/staticx",
    "/static/a\n",
    "/v1%2fsegment",
    "/%76%31/segment",
    "/V1/segment",
    "/v1/segment/",
    "/HEALTHZ",
    "/healthz/",
    "/healthz;a",
    "/healthz\x00",
    "/healthz\n",
    "//healthz",
    "/./healthz",
    "/docs/",
    "/docs/oauth2-redirect",
    "/redoc",
    "/metrics",
    "",
    "*",
    "v1/segment",
    "http://localhost/healthz",
    "/ｈealthz",
]


@pytest.mark.parametrize("path", ["/v1/segment", "/v1/masks", "/v1/models", "/nothing", *TRICKS])
def test_every_other_path_is_closed_to_every_method(path: str) -> None:
    door = Door()
    assert {door.ask(path, method=method) for method in METHODS} == {401}
    assert not door.reached


@pytest.mark.parametrize("path", [*sorted(OPEN_PATHS), f"{STATIC_PREFIX}a.js", f"{STATIC_PREFIX}icons/b-1.min.svg"])
def test_what_is_open_is_open_for_reading_alone(path: str) -> None:
    door = Door()
    assert {method for method in METHODS if door.ask(path, method=method) == 204} == {"GET", "HEAD"}
    assert {tenant_of(scope) for scope in door.reached} == {""}


_PIECES = st.sampled_from(
    ["/", "//", "v1", "segment", "masks", "models", "healthz", "readyz", "docs", "openapi.json", "static", "a.js"]
    + [".", "..", "%2f", "%2F", "%2e", "\\", ";", "?", "#", "\x00", " ", "\n", "V1", "é"]
)
_PATHS = st.lists(_PIECES | st.text(max_size=3), max_size=7).map("".join) | st.sampled_from(sorted(OPEN_PATHS))
_SERVICE = Service(auth=AUTH)


@given(path=_PATHS, root=_PATHS, method=st.sampled_from(METHODS))
@example(path="/healthz/v1/models", root="/healthz", method="GET")
@example(path="/static/v1/models", root="/static", method="GET")
@example(path="/v1/models", root="/v1/models", method="GET")
def test_without_a_key_no_path_reaches_what_is_closed(path: str, root: str, method: str) -> None:
    """The real application and its router: only what is open by name is ever more than 401."""
    status = _status(_SERVICE.app, path, (), method, {"root_path": root})
    readings = {path, path.removeprefix(root)}
    if status != 401:
        assert readings & OPEN_PATHS or any(reading.startswith(STATIC_PREFIX) for reading in readings)
    assert status == 401 or method in ("GET", "HEAD")
    assert not _SERVICE.stages.calls


def test_a_refusal_has_the_one_format() -> None:
    response = Service(auth=AUTH).json({"authorization": f"Bearer {KEY}x"})
    refusal(response, 401, "unauthenticated")
    assert response.headers["www-authenticate"] == "Bearer"


def test_with_a_key_the_service_works_and_unknown_paths_are_404() -> None:
    service = Service(auth=AUTH)
    headers = {"authorization": f"Bearer {KEY}"}
    assert service.json(headers).status_code == 200
    assert service.request("GET", "/v1/models", headers=headers).status_code == 200
    refusal(service.request("GET", "/nothing", headers=headers), 404, "not_found")


def test_mode_none_asks_for_nothing() -> None:
    assert Service(auth=AuthSettings(mode="none")).json().status_code == 200


def test_keys_are_in_no_log_error_or_settings(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("a stage fails")

    caplog.set_level(logging.DEBUG)
    said = [repr(AUTH), AUTH.model_dump_json()]
    for service in (Service(auth=AUTH), Service(Broken(), auth=AUTH)):  # type: ignore[arg-type]
        for value in (f"Bearer {KEY}", f"Bearer {KEY}wrong", f"Basic {KEY}"):
            said.append(service.json({"authorization": value}).text)
            said.append(service.request("GET", "/nothing", headers={"authorization": value}).text)
    assert "Traceback" in caplog.text
    for text in (*said, caplog.text):
        assert KEY.removeprefix("t2m_") not in text
    assert ENTRY.sha256 not in repr(AUTH)
