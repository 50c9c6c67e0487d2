"""What an HTTP answer says: a result, or which error. Whoever wrote it is not trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from deployments.client.errors import (
    ClientError,
    DeadlineError,
    FaultError,
    OverloadedError,
    RefusedError,
    UnauthenticatedError,
    UnavailableError,
)

MAX_ERROR_BYTES = 2**16  # what an answer other than 200 may hold; the rest is left unread
_MAX_SHOWN = 300  # characters of a server's own text
_UNSHOWABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+"
)  # control terminals, reorder text
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        headers: by lower-case name.
        body: all of it, or its beginning where it was longer than it may be.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    whole: bool = True


def error_in(reply: Reply, now: float) -> ClientError | None:
    """The error that `reply` is; None for a 200. `now` is Unix time in seconds."""
    status = reply.status
    if status == 200:
        return None if reply.whole else FaultError("answer_too_large", "the answer is larger than max_answer_bytes")
    if 300 <= status < 400:
        return RefusedError("redirected", _redirected(reply), status=status)
    known = _in_our_format(reply)
    code, message, param = known or (f"http_{status}", _without_format(reply), None)
    kind = _kind(status, known is not None)
    retry_after_s = _retry_after(reply.headers.get("retry-after"), now) if kind.transient else None
    return kind(code, message, param=param, status=status, retry_after_s=retry_after_s)


def json_of(reply: Reply) -> Any:
    """The JSON of an answer. Raises ValueError."""
    try:
        return json.loads(reply.body)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _kind(status: int, ours: bool) -> type[ClientError]:
    if status == 401:
        return UnauthenticatedError
    if status == 408:
        return DeadlineError
    if status == 429:
        return OverloadedError
    # A 500 in plain text is Serve's proxy's: the replica that had the request is gone.
    if status in (502, 503, 504) or (status == 500 and not ours):
        return UnavailableError
    return RefusedError if 400 <= status < 500 else FaultError


def _in_our_format(reply: Reply) -> tuple[str, str, str | None] | None:
    """Code, message and param, if that is what the body holds."""
    try:
        error = json_of(reply)["error"]
        code, message, param = error["code"], error["message"], error["param"]
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    if not (isinstance(code, str) and _CODE.fullmatch(code) and isinstance(message, str)):
        return None
    return code, _shown(message), _shown(param) if isinstance(param, str) else None


def _without_format(reply: Reply) -> str:
    """A sentence for an answer that the service itself did not write."""
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    said = _shown(reply.body[: 4 * _MAX_SHOWN].decode("utf-8", "replace"))
    if kind == "text/plain" and said:
        return f"status {reply.status}: {said}"
    return f"status {reply.status}, and not from the service itself"  # a page of HTML helps nobody here


def _redirected(reply: Reply) -> str:
    target = urlsplit(reply.headers.get("location", "")[:2000])
    where = f" (to {_shown(f'{target.scheme}://{target.hostname}')})" if target.scheme and target.hostname else ""
    return f"the server sends callers to another address{where}, which the client does not follow: name it as the url"


def _retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait, by a number or an HTTP date; None for anything else."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)


def _shown(text: str) -> str:
    text = _UNSHOWABLE.sub(" ", text[: 2 * _MAX_SHOWN]).strip()
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
