"""The one table of errors. Every refusal is `{"error": {"code", "message", "param"}}` with a fixed text.

No exception's own text is ever shown: it may hold paths, memory addresses or another caller's data.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from deployments.http.facts import facts
from deployments.logs import LOGGER
from deployments.retry import StageLostError
from pipeline.errors import StageError

logger = logging.getLogger(LOGGER)

STATUS: Mapping[str, int] = {
    "malformed_request": 400,
    "unauthenticated": 401,
    "url_not_allowed": 403,
    "not_found": 404,
    "unknown_model": 404,
    "image_not_cached": 404,
    "method_not_allowed": 405,
    "deadline_exceeded": 408,
    "body_too_large": 413,
    "image_too_large": 413,
    "image_format_not_allowed": 415,
    "unsupported_media_type": 415,
    "invalid_value": 422,
    "image_undecodable": 422,
    "url_not_fetched": 422,
    "rate_limited": 429,
    "overloaded": 429,
    "internal": 500,
    "not_ready": 503,
    "cancelled": 503,  # a stage that shuts down gives up its queue; the caller may ask again
}

_MESSAGES: Mapping[str, str] = {
    "unauthenticated": "a valid key is needed; send it as `Authorization: Bearer KEY`",
    "rate_limited": "too many requests with keys of this owner; try again after the seconds in Retry-After",
    "overloaded": "the service has as many requests as it can work on; try again after the seconds in Retry-After",
    "not_found": "there is nothing at this path",
    "method_not_allowed": "this path does not answer that method",
    "deadline_exceeded": "the request's time was over before the answer was ready",
    "internal": "the service failed on this request",
    "not_ready": "a part of the service is starting or being replaced; try again soon",
    "cancelled": "the service gave this request up; try again soon",
}

RETRY_AFTER_SECONDS = "1"


class ApiError(Exception):
    """A refusal that the HTTP layer itself decides on; `code` is a key of `STATUS`."""

    def __init__(self, code: str, message: str | None = None, param: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.message = _MESSAGES[code] if message is None else message
        self.param = param


def error_response(error: ApiError | StageError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer for `error`, in the one format."""
    status = STATUS[error.code]
    facts().code = error.code
    content = {"error": {"code": error.code, "message": error.message, "param": error.param}}
    extra = {"retry-after": RETRY_AFTER_SECONDS} if status in (429, 503) else {}
    return JSONResponse(content, status, {**extra, **(headers or {})})


def answer_to(error: Exception) -> JSONResponse:
    """The answer for any exception. What is not a known refusal is logged and becomes a 500."""
    if isinstance(error, (ApiError, StageError)):
        return error_response(error)
    if isinstance(error, TimeoutError):
        return error_response(ApiError("deadline_exceeded"))
    if isinstance(error, StageLostError):
        logger.warning("A stage was lost under a request and did not come back in time.")
        return error_response(ApiError("not_ready"))
    logger.error("A request failed.", exc_info=error)
    return error_response(ApiError("internal"))


def install(app: FastAPI) -> None:
    """Give `app` the one format for what the framework refuses by itself and for what escapes a route."""

    async def on_http_exception(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "internal")
        return error_response(ApiError(code), error.headers)  # a 405 carries `Allow`

    async def on_exception(_: Request, error: Exception) -> Response:
        return answer_to(error)

    app.add_exception_handler(HTTPException, on_http_exception)
    for kind in (ApiError, StageError, StageLostError, TimeoutError, Exception):
        app.add_exception_handler(kind, on_exception)
