"""What reads bodies in `deployments/`, each as a function of bytes; see `pipeline_targets`.

Coroutines are driven by hand: there is no event loop and no server.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from deployments.http.body import MAX_DEPTH, MAX_PARTS, parse_form, parse_json
from deployments.http.errors import STATUS, ApiError
from deployments.http.fields import Fields
from deployments.http.mask_schemas import MasksFields, MasksForm, MasksRequest
from deployments.http.orders import mask_order_of, order_of
from deployments.http.reading import read_request
from deployments.http.schemas import DetectFields, DetectForm, DetectRequest, SegmentForm, SegmentRequest
from deployments.image_ids import ImageId, ImageUrl
from pipeline.errors import StageError

T = TypeVar("T")

MAX_IMAGE_BYTES = 4096
BOUNDARY = b"b"


def finished(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns, which waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits")


def request_of(headers: Sequence[tuple[bytes, bytes]], body: bytes = b"") -> Request:
    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": list(headers)}, receive)


def refused(error: ApiError | StageError) -> None:
    """An answer that blames the caller, in words that quote nothing that cannot be written as JSON."""
    assert 400 <= STATUS[error.code] < 500
    json.dumps([error.message, error.param], ensure_ascii=False).encode()


def json_text(data: bytes) -> None:
    try:
        value = parse_json(data)
    except ApiError as error:
        refused(error)
        return
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, (list, dict))]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    assert depth <= MAX_DEPTH
    again = json.dumps(value)
    if "Infinity" not in again:  # 1e999 is JSON; the fields that hold numbers refuse what it becomes
        assert parse_json(again) == value


def segment_json(data: bytes) -> None:
    for model, form in ((SegmentRequest, SegmentForm), (DetectRequest, DetectForm)):
        _read(b"application/json", data, model, form)


def masks_json(data: bytes) -> None:
    _read(b"application/json", data, MasksRequest, MasksForm)


def segment_form(data: bytes) -> None:
    for model, form in ((SegmentRequest, SegmentForm), (DetectRequest, DetectForm)):
        _read(b"multipart/form-data; boundary=" + BOUNDARY, data, model, form)


def masks_form(data: bytes) -> None:
    _read(b"multipart/form-data; boundary=" + BOUNDARY, data, MasksRequest, MasksForm)


def _read(content_type: bytes, body: bytes, model: type[Any], form: type[Fields]) -> None:
    try:
        source, fields = finished(
            read_request(request_of([(b"content-type", content_type)], body), MAX_IMAGE_BYTES, model, form)
        )
        if isinstance(fields, DetectFields):
            assert order_of(fields).selection.max_detections == fields.max_detections
        if isinstance(fields, MasksFields):
            assert len(mask_order_of(fields).prompts) >= 1
    except (ApiError, StageError) as error:
        refused(error)
        return
    assert isinstance(source, (bytes, ImageUrl, ImageId))
    if isinstance(source, bytes) and b"json" in content_type:
        assert len(source) <= MAX_IMAGE_BYTES + 2


def form(data: bytes) -> None:
    """The content type up to the first line feed, then the body."""
    content_type, _, body = data.partition(b"\n")
    try:
        fields = parse_form(content_type.decode("latin-1"), body)
    except ApiError as error:
        assert error.code == "malformed_request"
        refused(error)
        return
    assert len(fields) <= MAX_PARTS
    assert sum(len(value) for value in fields.values()) <= len(body)
