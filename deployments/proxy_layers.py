"""What Serve's HTTP proxy puts around itself: `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names `layers`."""

from __future__ import annotations

from starlette.middleware import Middleware

from deployments.http.plain_headers import PlainHeaders
from deployments.http.request_id import RequestId


def layers() -> list[Middleware]:
    """Outside of Serve's own, which logs and echoes any `x-request-id`, and fails on headers that are not UTF-8."""
    return [Middleware(RequestId), Middleware(PlainHeaders)]
