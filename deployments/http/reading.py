"""A request's body -> the encoded image and the other fields."""

from __future__ import annotations

from base64 import b64decode

from starlette.requests import Request

from deployments import metrics
from deployments.fetch import Fetcher, FetchError
from deployments.http.body import media_type, parse_form, parse_json, read_body
from deployments.http.errors import ApiError
from deployments.http.fields import F, ImageInput, WithImage, from_form, from_json
from deployments.image_ids import ImageId, ImageUrl

Source = bytes | ImageId | ImageUrl
"""An encoded image, or what leads to it."""


async def read_request(request: Request, max_image_bytes: int, body: type[F], form: type[F]) -> tuple[Source, F]:
    """The image of a request and its other fields, as JSON (`body`, a `WithImage`) or as a `form`.

    Both are of one family: `form.room` bounds either. Raises ApiError.
    """
    kind = media_type(request)
    if kind == "application/json":
        text = await read_body(request, base64_length(max_image_bytes) + form.room)
        parsed = from_json(parse_json(text), body)
        assert isinstance(parsed, WithImage)
        source = _source(parsed.image, max_image_bytes)
        # The text of base64 is longer than the image, and nobody needs it any more.
        return source, parsed.model_copy(update={"image": parsed.image.model_copy(update={"value": ""})})
    if kind == "multipart/form-data":
        parts = parse_form(request.headers["content-type"], await read_body(request, max_image_bytes + form.room))
        image = parts.pop("image", None)
        if not isinstance(image, bytes):
            raise ApiError("invalid_value", "must be a file part of the form", "image")
        fields: dict[str, str] = {}
        for name, value in parts.items():
            if isinstance(value, bytes):
                raise ApiError("invalid_value", "only `image` may be a file part")
            fields[name] = value
        return image, from_form(fields, form)
    raise ApiError("unsupported_media_type", "send application/json or multipart/form-data")


def _source(image: ImageInput, max_bytes: int) -> Source:
    match image.type:
        case "base64":
            return decode_base64(image.value, max_bytes)
        case "url":
            return ImageUrl(image.value)
        case "id":
            return ImageId(image.value)


async def fetch_image(source: Source, fetcher: Fetcher, deadline: float) -> bytes | ImageId:
    """`source`, fetched by `deadline` (Unix time in seconds) if it is a URL. Raises ApiError."""
    if not isinstance(source, ImageUrl):
        return source
    try:
        fetched = await fetcher.fetch(source.value, deadline)
    except FetchError as error:
        metrics.URL_FETCHES.record(1, outcome=error.code)
        raise ApiError(error.code, error.message, "image.value") from None
    metrics.URL_FETCHES.record(1, outcome="ok")
    return fetched


def base64_length(size: int) -> int:
    """Characters that `size` bytes take in base64."""
    return 4 * ((size + 2) // 3)


def decode_base64(text: str, max_bytes: int) -> bytes:
    """The bytes behind `text`, measured before they are made."""
    if len(text) > base64_length(max_bytes):
        raise ApiError("image_too_large", f"the image may have at most {max_bytes} bytes", "image")
    try:
        return b64decode(text, validate=True)
    except ValueError:  # also text that is not ASCII
        raise ApiError("invalid_value", "must be standard base64", "image.value") from None
