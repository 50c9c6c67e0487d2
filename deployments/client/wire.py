"""How a call is written down for HTTP. Nothing is sent here."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deployments.client.images import Upload
from deployments.image_ids import ImageId, ImageUrl
from pipeline.formats.low_res import low_res_json

Source = Upload | ImageUrl | ImageId


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One request, as `httpx.AsyncClient.build_request` takes it; made anew for each attempt.

    Attributes:
        path: below the service's address.
        content: `json`, or `files` and `data`; nothing for a GET.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    content: Mapping[str, Any] = field(default_factory=dict, repr=False)


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` without what was left out, and arrays as lists.

    Raises:
        ValueError: a number is not finite. TypeError: a value that JSON does not know.
    """
    values = {name: _plain(name, value) for name, value in fields.items() if value is not None}
    json.dumps(values, allow_nan=False)  # here, before anything is sent
    return values


def _plain(name: str, value: Any) -> Any:
    if name == "mask_input" and not isinstance(value, str):
        return [dict(one) if isinstance(one, Mapping) else low_res_json(np.asarray(one)) for one in value]
    return _listed(value)


def _listed(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_listed(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _listed(item) for name, item in value.items()}
    return value


def content_of(fields: Mapping[str, Any], image: Source) -> dict[str, Any]:
    """The body: bytes go as a form, which adds nothing to them, and all else as JSON.

    A form knows no types: a text that looks like a JSON list is read as one, `"0.5"` as a number, and an object where
    none belongs as a text. What it would not say as JSON does, and the image with it, travels as JSON: or else a value
    would be taken with an image's bytes and refused with its id.
    """
    if isinstance(image, ImageId):
        return {"json": {"image": {"type": "id", "value": image.value}, **fields}}
    if isinstance(image, ImageUrl):
        return {"json": {"image": {"type": "url", "value": image.value}, **fields}}
    if not all(_fits_a_form(name, value) for name, value in fields.items()):
        return {"json": {"image": {"type": "base64", "value": b64encode(image.data).decode()}, **fields}}
    data = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    return {"files": {"image": ("image", image.data, "application/octet-stream")}, "data": data}


_TEXTS = frozenset({"prompt", "negative_prompt", "mode", "model", "nms", "tile", "masks"})
_SWITCHES = frozenset({"raw", "multimask", "low_res"})
_COUNTS = frozenset({"max_detections"})
_NUMBERS = frozenset(
    {"box_threshold", "text_threshold", "nms_threshold", "negative_iou", "min_area", "max_area", *_COUNTS}
)


def _fits_a_form(name: str, value: Any) -> bool:
    """Whether a form says the same of this field as JSON."""
    match value:
        case str():
            return name in _TEXTS and not value.lstrip().startswith(("[", "{"))
        case bool():
            return name in _SWITCHES
        case int():
            return name in _NUMBERS
        case float():
            return name in _NUMBERS - _COUNTS
        case dict():
            return name == "tile"
        case list() if name in ("prompt", "negative_prompt"):
            return bool(value) and isinstance(value[0], str | dict)
        case list():
            return name in ("boxes", "points", "mask_input")
        case _:
            return False


def call_headers(accept: str, request_id: str, left_s: float) -> dict[str, str]:
    """Headers of an attempt with `left_s` seconds before it."""
    return {
        "accept": accept,
        "accept-encoding": "identity",  # a small answer that unpacks to gigabytes cannot come then
        "x-request-id": request_id,
        "x-request-timeout-seconds": f"{max(0.001, math.floor(left_s * 1000) / 1000):.3f}",
    }
