"""What a request may hold. Unknown fields are refused; numbers are finite and bounded; nothing is ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from deployments.http.body import parse_json
from deployments.http.errors import ApiError
from pipeline.prompt import MAX_CHARACTERS, MAX_CLASSES

MAX_DETECTIONS = 1000
MAX_CLASS_CHARACTERS = 2_000

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Strict(BaseModel):
    # strict: "0.5" is no number and 1 is no boolean. hide_input: nothing of the caller's is copied into an error.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class ImageInput(_Strict):
    """The picture. `base64` is the one kind that is available yet."""

    type: Literal["base64", "url", "id"]
    value: Annotated[str, Field(min_length=1)]


class ClassItem(_Strict):
    """One class to look for, with a box threshold of its own."""

    text: Annotated[str, Field(max_length=MAX_CLASS_CHARACTERS)]
    box_threshold: Fraction | None = None


# The tags in angle brackets name the branch of a union; `_param` leaves them out.
_Item = Annotated[
    Annotated[Annotated[str, Field(max_length=MAX_CLASS_CHARACTERS)], Tag("<text>")]
    | Annotated[ClassItem, Tag("<item>")],
    Discriminator(lambda value: "<text>" if isinstance(value, str) else "<item>"),
]
Prompt = Annotated[
    Annotated[Annotated[str, Field(max_length=MAX_CHARACTERS)], Tag("<text>")]
    | Annotated[Annotated[list[_Item], Field(max_length=MAX_CLASSES)], Tag("<list>")],
    Discriminator(lambda value: "<text>" if isinstance(value, str) else "<list>"),
]


class SegmentFields(_Strict):
    """Every field of `POST /v1/segment` but the picture. A threshold left out is the model's own."""

    prompt: Annotated[Prompt, Field(description="What to look for: `car, wheel`, or a list of texts or of items.")]
    mode: Annotated[
        Literal["classes", "phrase"], Field(description="`phrase`: the text is one expression, commas and all.")
    ] = "classes"
    negative_prompt: Annotated[
        Prompt | None, Field(description="What to leave out: its boxes remove the weaker ones that they overlap.")
    ] = None
    model: Annotated[str | None, Field(max_length=200, description="`detector+segmenter`; see `/v1/models`.")] = None
    box_threshold: Fraction | None = None
    text_threshold: Fraction | None = None
    nms: Annotated[
        Literal["class", "agnostic", "off"], Field(description="Drop overlapping boxes of one class, of any, or none.")
    ] = "class"
    nms_threshold: Fraction = 0.7
    negative_iou: Fraction = 0.5
    min_area: Annotated[Fraction, Field(description="Area of the box divided by the area of the image.")] = 0.0
    max_area: Fraction = 1.0
    max_detections: Annotated[int, Field(ge=1, le=MAX_DETECTIONS)] = 100
    multimask: Annotated[bool, Field(description="Take the best of three masks by their predicted IoU.")] = False
    masks: Annotated[
        Literal["rle", "polygon", "png", "none"],
        Field(description="COCO run lengths; rings in pixel corners; a PNG of 0 and 255; or boxes only."),
    ] = "rle"


class SegmentRequest(SegmentFields):
    """The JSON body of `POST /v1/segment`."""

    image: ImageInput


_FORM_LIST = re.compile(r'\s*\[\s*(["{]|\]\s*$)')


def from_json(body: Any) -> SegmentRequest:
    """The request in a parsed JSON body. Raises ApiError."""
    try:
        request = SegmentRequest.model_validate(body)
    except ValidationError as error:
        raise _refusal(error) from None
    if request.image.type != "base64":
        raise ApiError("invalid_value", "this kind of image is not available yet; send base64", "image.type")
    _check(request)
    return request


def from_form(fields: Mapping[str, str]) -> SegmentFields:
    """The request in the text fields of a form: numbers and booleans as text, a prompt's list as JSON text."""
    values: dict[str, Any] = dict(fields)
    for name in ("prompt", "negative_prompt"):
        text = fields.get(name)
        if text is not None and _FORM_LIST.match(text):
            values[name] = parse_json(text)
    try:
        request = SegmentFields.model_validate(values, strict=False)
    except ValidationError as error:
        raise _refusal(error) from None
    _check(request)
    return request


def plain_prompt(prompt: str | list[str | ClassItem]) -> str | list[str | dict[str, Any]]:
    """A prompt as `pipeline.prompt.parse_classes` takes it."""
    if isinstance(prompt, str):
        return prompt
    return [item if isinstance(item, str) else item.model_dump(exclude_none=True) for item in prompt]


def _check(request: SegmentFields) -> None:
    if request.min_area > request.max_area:
        raise ApiError("invalid_value", "must not exceed max_area", "min_area")


def _refusal(error: ValidationError) -> ApiError:
    """The first fault that pydantic found, in our own words."""
    fault = error.errors(include_url=False, include_input=False)[0]
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "missing":
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
    "list": "must be a string or a list",
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
