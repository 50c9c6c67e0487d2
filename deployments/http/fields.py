"""Bodies -> checked models. Unknown fields are refused; numbers are finite and bounded; nothing is ignored."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, ValidationError

from deployments.http.body import MAX_DEPTH, MAX_NAMES, parse_json
from deployments.http.errors import ApiError


class Fields(BaseModel):
    """What all parts of a request have in common."""

    # strict: "0.5" is no number and 1 is no boolean. hide_input: nothing of the caller's is copied into an error.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    room: ClassVar[int] = 2**20
    """Bytes that all fields but the image may take."""
    json_text: ClassVar[Mapping[str, str]] = {}
    """Fields that a form gives as JSON, if their text matches this pattern."""


class ImageInput(Fields):
    """The picture: `base64` of the encoded file; an https `url` of a host that the operator of the service lists; or
    the `id` of an earlier answer, as long as the image is kept (else 404 `image_not_cached`: send it again)."""

    type: Literal["base64", "url", "id"]
    value: Annotated[str, Field(min_length=1)]


class WithImage(Fields):
    """A JSON body; a form brings the picture as a file."""

    image: ImageInput


F = TypeVar("F", bound=Fields)

_OTHER_FORM = "other_form"


def by_form(form_of: Callable[[Any], str | None], forms: str) -> Discriminator:
    """Which branch of a union reads a value. Left to itself, pydantic would tell of one branch's fault only.

    Args:
        form_of: of a value, the tag of its branch; None where it has none of the forms.
        forms: what a refusal says then; it must name all of them.
    """
    return Discriminator(form_of, custom_error_type=_OTHER_FORM, custom_error_message=forms)


def from_json(body: Any, model: type[F]) -> F:
    """The request in a parsed JSON body; `model` is a `WithImage`. Raises ApiError."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise _refusal(error) from None


def from_form(fields: Mapping[str, str], model: type[F]) -> F:
    """The request in the text fields of a form; `model` is not strict at its top, where numbers and booleans are text.

    What is nested is JSON text. Raises ApiError.
    """
    values: dict[str, Any] = dict(fields)
    for name, pattern in model.json_text.items():
        text = fields.get(name)
        if text is not None and re.match(pattern, text):
            values[name] = _json_field(name, text)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _refusal(error) from None


def _json_field(name: str, text: str) -> Any:
    """One field's JSON. The form around it is sound, so what is wrong here is this field's value."""
    try:
        return parse_json(text)
    except ApiError as error:
        if error.code == "malformed_request":
            limits = f"at most {MAX_DEPTH} levels deep, of at most {MAX_NAMES} names an object"
            raise ApiError("invalid_value", f"must be valid JSON, {limits}", name) from None
        raise ApiError(error.code, "has too many values", name) from None


def _refusal(error: ValidationError) -> ApiError:
    """The first fault that pydantic found, in our own words.

    It tells all of them, each a dict, so there must be few: lists end with their first (`fail_fast`), and an object has
    at most `MAX_NAMES` to be unknown.
    """
    fault = error.errors(include_url=False, include_input=False)[0]
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == _OTHER_FORM:
        message = fault["msg"]
    elif kind == "missing":
        message = "this field is required"
    elif kind == "extra_forbidden":
        message = "there is no such field"
    elif kind == "literal_error":
        message = f"must be one of {context['expected']}"
    elif kind in ("greater_than_equal", "less_than_equal"):
        message = "must be at least {ge}" if kind == "greater_than_equal" else "must be at most {le}"
        message = message.format(**context)
    elif kind == "too_long":
        message = f"may have at most {context['max_length']} items"
    elif kind == "too_short":
        message = f"must have at least {context['min_length']} items"
    elif kind == "string_too_long":
        message = f"may have at most {context['max_length']} characters"
    elif kind == "finite_number":
        message = "must be a finite number"
    elif kind == "string_unicode":
        message = "is not valid Unicode"
    else:
        message = _EXPECTED.get(kind.partition("_")[0], "this value is not valid")
    return ApiError("invalid_value", message, _param(fault["loc"]))


_EXPECTED = {
    "string": "must be a string",
    "float": "must be a number",
    "int": "must be an integer",
    "bool": "must be true or false",
    "list": "must be a list",
    "model": "must be an object",
    "dict": "must be an object",
}

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def _param(location: tuple[int | str, ...]) -> str | None:
    """`prompt[2].box_threshold`. A name that the caller made up is shown only where it looks like a field's name."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.startswith("<"):
            continue
        elif _NAME.fullmatch(part):
            path += f".{part}" if path else part
        else:
            break
    return path or None
