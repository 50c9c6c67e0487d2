"""What reads headers, paths and ids in `deployments/`, each as a function of bytes; see `pipeline_targets`."""

from __future__ import annotations

import re
from typing import Any

from starlette.datastructures import Headers

from deployments.auth_settings import KeyEntry, digest_of
from deployments.http.answers import wants_picture
from deployments.http.auth import OPEN_PATHS, STATIC_PREFIX, Authenticate, is_open, tenant_of
from deployments.http.body import announced_length, media_type
from deployments.http.deadline import HEADER, deadline_of
from deployments.http.errors import ApiError
from deployments.http.request_id import chosen
from deployments.image_ids import ImageIds, cache_key
from tests.fuzz.body_targets import finished, refused, request_of
from tests.fuzz.pipeline_targets import text_of

KEY = b"t2m_the-one-that-opens"


def image_id(data: bytes) -> None:
    text = text_of(data)
    sound = len(text) == 64 and set(text) <= set("0123456789abcdef")
    assert ImageIds.well_formed(text) == sound
    if sound:
        assert ImageIds.well_formed(cache_key(text, "a tenant"))
    assert ImageIds.well_formed(ImageIds("a secret").of(data, "a tenant"))


def timeout_header(data: bytes) -> None:
    """Values of the header, a line each."""
    headers = Headers(raw=[(HEADER.encode(), value) for value in data.split(b"\n")])
    try:
        deadline = deadline_of(headers, 1e9, 60)
    except ApiError as error:
        refused(error)
        return
    assert 1e9 <= deadline <= 1e9 + 60


def headers(data: bytes) -> None:
    """One value, as each of the headers that are read by hand."""
    for name in (b"accept", b"x-request-id", b"content-length", b"content-type", b"content-encoding"):
        request = request_of([(name, data)])
        assert wants_picture(request) is False or b"image/png" in data.lower()
        assert re.fullmatch(rb"[A-Za-z0-9._:-]{1,128}", chosen([data]))
        length = announced_length(request.headers.raw)
        assert length is None or 0 <= length == int(data)
        try:
            assert media_type(request) == media_type(request).lower()
        except ApiError as error:
            refused(error)


def authorization(data: bytes) -> None:
    """Values of the header, a line each."""
    passed: list[str] = []
    statuses: list[int] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        passed.append(tenant_of(scope))
        assert all(name != b"authorization" for name, _ in scope["headers"])

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> Any:
        raise AssertionError("a body is read before the key is known")

    values = data.split(b"\n")
    scope = {"type": "http", "method": "POST", "path": "/v1/segment", "root_path": ""}
    pairs = [(b"authorization", value) for value in values]
    layer = Authenticate(inner, [KeyEntry(owner="somebody", sha256=digest_of(KEY))])
    finished(layer({**scope, "headers": pairs}, receive, send))
    if passed:
        assert passed == ["somebody"]
        assert len(values) == 1
        assert values[0].lower().startswith(b"bearer ")
        assert values[0][7:].strip(b" ") == KEY
    else:
        assert statuses == [401]


def path(data: bytes) -> None:
    """A path, and after a line feed the root path of the app."""
    given, _, root = text_of(data).partition("\n")
    for method in ("GET", "POST"):
        if is_open({"type": "http", "method": method, "path": given, "root_path": root}):
            assert method == "GET"
            tail = given.removeprefix(root)
            assert tail in OPEN_PATHS or tail.startswith(STATIC_PREFIX)
            assert ".." not in tail.split("/")
            assert not set(tail) & set("\\%\0?#")
