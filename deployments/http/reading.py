"""A request's body -> the encoded image and the other fields."""

from __future__ import annotations

from base64 import b64decode

from starlette.requests import Request

from deployments.http.body import media_type, parse_form, parse_json, read_body
from deployments.http.errors import ApiError
from deployments.http.fields import F, WithImage, from_form, from_json


async def read_request(request: Request, max_image_bytes: int, body: type[F], form: type[F]) -> tuple[bytes, F]:
    """The encoded image and the other fields of a request, as JSON (`body`, a `WithImage`) or as a form (`form`).

    Both are of one family: `form.room` bounds either. Raises ApiError.
    """
    kind = media_type(request)
    if kind == "application/json":
        text = await read_body(request, base64_length(max_image_bytes) + form.room)
        parsed = from_json(parse_json(text), body)
        assert isinstance(parsed, WithImage)
        return decode_base64(parsed.image.value, max_image_bytes), parsed
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
