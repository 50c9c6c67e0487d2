"""What can be asked of the service: for each question its path, its fields and the reading of its answer. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from uuid import uuid4

from deployments.client.answers import Reply, json_of
from deployments.client.fields import DetectOptions, MasksOptions, SegmentOptions
from deployments.client.wire import plain
from pipeline.mask_result import MaskResult
from pipeline.result import Result

T = TypeVar("T", covariant=True)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_OF_THE_CALL = ("timeout_s", "request_id")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One question, with all but its image.

    Attributes:
        read: the result in a 200. Raises ValueError, and no other error, for what is none.
        keeps: whether the service may know this image by its id afterwards, by the result.
        timeout_s: seconds for the call; None: the client's own.
    """

    method: str
    path: str
    read: Callable[[Reply], T]
    fields: Mapping[str, Any] = field(default_factory=dict)
    keeps: Callable[[Any], str | None] = lambda _: None
    accept: str = "application/json"
    timeout_s: float | None = None
    request_id: str = ""

    @property
    def takes_image(self) -> bool:
        return self.method == "POST"

    @property
    def model(self) -> str | None:
        return self.fields.get("model")


def segment(prompt: Any, options: Mapping[str, Any]) -> Call[Result]:
    """Raises ValueError or TypeError for options that are none; so do the others."""
    fields, about = _split(SegmentOptions, {"prompt": prompt, **options})
    return Call("POST", "v1/segment", _result, fields, _kept, **about)


def detect(prompt: Any, options: Mapping[str, Any]) -> Call[Result]:
    fields, about = _split(DetectOptions, {"prompt": prompt, **options})
    return Call("POST", "v1/detect", _result, fields, **about)


def overlay(prompt: Any, options: Mapping[str, Any]) -> Call[bytes]:
    fields, about = _split(SegmentOptions, {"prompt": prompt, **options})
    return Call("POST", "v1/segment", _picture, fields, accept="image/png", **about)


def masks(options: Mapping[str, Any]) -> Call[MaskResult]:
    fields, about = _split(MasksOptions, options)
    return Call("POST", "v1/masks", _mask_result, fields, lambda result: result.image_id, **about)


def models(timeout_s: float | None) -> Call[list[dict[str, Any]]]:
    return Call("GET", "v1/models", _models, **_about(timeout_s, None))


def ready(timeout_s: float) -> Call[bool]:
    return Call("GET", "readyz", lambda _: True, **_about(timeout_s, None))


def again(call: Call[T]) -> Call[T]:
    """The same question under an id of its own."""
    return replace(call, request_id=str(uuid4()))


def checked_timeout(timeout_s: float) -> float:
    """Raises ValueError for what is not a positive, finite number of seconds."""
    if not (isinstance(timeout_s, int | float) and math.isfinite(timeout_s) and timeout_s > 0):
        raise ValueError("timeout_s must be a positive number of seconds")
    return float(timeout_s)


def _split(known: Any, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The API's fields among `options`, and those of the call itself."""
    strange = sorted(options.keys() - known.__annotations__.keys() - {"prompt"})
    if strange:
        raise TypeError(f"there is no option {strange[0]!r}; there are {', '.join(sorted(known.__annotations__))}")
    fields = {name: value for name, value in options.items() if name not in _OF_THE_CALL}
    return plain(fields), _about(options.get("timeout_s"), options.get("request_id"))


def _about(timeout_s: float | None, request_id: str | None) -> dict[str, Any]:
    request_id = str(uuid4()) if request_id is None else request_id
    if not _REQUEST_ID.fullmatch(request_id):
        raise ValueError("a request_id is 1 to 128 letters, digits and any of . _ : -")
    return {"timeout_s": None if timeout_s is None else checked_timeout(timeout_s), "request_id": request_id}


def _result(reply: Reply) -> Result:
    return Result.from_json(json_of(reply))


def _mask_result(reply: Reply) -> MaskResult:
    return MaskResult.from_json(json_of(reply))


def _models(reply: Reply) -> list[dict[str, Any]]:
    answer = json_of(reply)
    found = answer.get("models") if isinstance(answer, dict) else None
    if not isinstance(found, list) or not all(isinstance(model, dict) for model in found):
        raise ValueError("no list of models")
    return found


def _picture(reply: Reply) -> bytes:
    if not reply.body.startswith(_PNG):
        raise ValueError("no PNG")
    return reply.body


def _kept(result: Result) -> str | None:
    """The image's id, if the service has encoded it: it keeps no others."""
    return result.image_id if result.rles else None
