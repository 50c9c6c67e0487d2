"""Reading a request's body: bytes are counted while they arrive, and JSON and forms are parsed strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from deployments.http.errors import ApiError

MAX_PARTS = 64  # of a form; the fields that exist are far fewer
# Commas and opening brackets in JSON; base64 has none. Two longest prompts of nothing else stay below, and what is
# parsed is parsed in a fraction of a second: a body's bytes, all spent on `[],`, would stop the service for ten.
MAX_MARKS = 500_000
# Quotes around strings; those within one have a backslash before them. Two longest prompts as lists of items, and all
# low-resolution masks, have fewer.
MAX_QUOTES = 32_000
# Of one object in JSON; the fields that exist are far fewer. Each unknown one costs a refusal of its own.
MAX_NAMES = 64
MAX_DEPTH = 16  # brackets within brackets in JSON; the fields that exist go four deep
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z|\\\Z)', re.DOTALL)  # one without an end takes all, so this is linear
_LONG_FILENAME = re.compile(rb";[ \t]*filename\*[0-9]*\*?[ \t]*=", re.IGNORECASE)


def media_type(request: Request) -> str:
    """The lower-case media type of the body, without its parameters."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError("unsupported_media_type", "send the body without a content encoding")
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, refused as soon as it is known to exceed `limit` bytes."""
    announced = announced_length(request.headers.raw)
    if announced is not None and announced > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def announced_length(headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """Bytes of the body by the header of an ASGI scope; None where it does not say."""
    for name, value in headers:
        if name.lower() == b"content-length" and value.isdigit() and len(value) < 20:  # else no server lets it pass
            return int(value)
    return None


def parse_json(text: bytes | str) -> Any:
    """JSON as RFC 8259 has it: UTF-8, no NaN or Infinity, no name twice in one object, none of more than `MAX_NAMES`.

    What would take long is refused before it is parsed, by counting bytes. Raises ApiError.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        if sum(map(text.count, ",[{")) > MAX_MARKS:
            raise ApiError("body_too_large", "the body has too many values")
        if text.count('"') - text.count('\\"') > MAX_QUOTES:
            raise ApiError("body_too_large", "the body has too many strings")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_not_a_number)
    except ValueError:  # also bad UTF-8 and integers of absurd length
        raise ApiError("malformed_request", "the body is not valid JSON") from None
    except RecursionError:  # far beyond the limit
        raise _too_deep() from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise _too_deep()
    return value


def parse_form(content_type: str, body: bytes) -> dict[str, str | bytes]:
    """The parts of a multipart form: files (parts with a file name) as bytes, other fields as text."""
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise ApiError("malformed_request", "the form has no boundary")
    collector = _Collector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise ApiError("malformed_request", "the form is not valid multipart data") from None
    if not collector.ended:  # the closing boundary is missing: the body was cut off
        raise ApiError("malformed_request", "the form is not valid multipart data")
    return collector.fields


class _Collector:
    """Callbacks of the parser. Starlette's own reader spools files to disk and guesses at encodings; this does not."""

    def __init__(self) -> None:
        self.fields: dict[str, str | bytes] = {}
        self.ended = False
        self._parts = 0
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._data = bytearray()

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._on_header_end,
            "on_part_data": lambda data, start, end: self._data.extend(data[start:end]),
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise ApiError("malformed_request", f"a form may have at most {MAX_PARTS} parts")
        self._disposition, self._data = b"", bytearray()

    def _on_header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _on_part_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        is_file = b"filename" in options or _has_long_filename(self._disposition)
        try:
            name = options[b"name"].decode()
            value = bytes(self._data) if is_file else self._data.decode()
        except (KeyError, UnicodeDecodeError):
            raise ApiError("malformed_request", "a part of the form has no name or is not UTF-8 text") from None
        if name in self.fields:
            raise ApiError("malformed_request", "a part of the form is given twice")
        self.fields[name] = value

    def _on_end(self) -> None:
        self.ended = True


def _has_long_filename(disposition: bytes) -> bool:
    """Whether there is a `filename*` (RFC 5987), which is no part of a form's standard, and which some clients send."""
    return _LONG_FILENAME.search(_QUOTED.sub(b"", disposition)) is not None


def _too_large(limit: int) -> ApiError:
    return ApiError("body_too_large", f"the body may have at most {limit} bytes")


def _too_deep() -> ApiError:
    return ApiError("malformed_request", f"the body is JSON of more than {MAX_DEPTH} levels")


def _depth(value: Any) -> int:
    """Lists and objects within one another."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, (list, dict))]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_NAMES:
        raise ApiError("malformed_request", f"an object may have at most {MAX_NAMES} names")
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _not_a_number(_: str) -> NoReturn:
    raise ValueError("not a JSON number")
