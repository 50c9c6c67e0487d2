"""What a request may hold, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, Tag

from deployments.http.fields import Fields, WithImage, by_form
from pipeline.prompt import ITEM_FORMS, MAX_CHARACTERS, MAX_CLASSES, PROMPT_FORMS
from pipeline.tiling import MAX_SIZE, MIN_OVERLAP, MIN_SIZE, TILE_FORMS

MAX_DETECTIONS = 1000
MAX_CLASS_CHARACTERS = 2_000
_LIST = r'\s*\[\s*(["{]|\]\s*$)'  # `[SEP] car` is a text

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class ClassItem(Fields):
    """One class to look for, with a box threshold of its own."""

    text: Annotated[str, Field(max_length=MAX_CLASS_CHARACTERS)]
    box_threshold: Annotated[Fraction | None, Field(description="For this class, in place of the request's.")] = None


# The tags in angle brackets name the branch of a union; `_param` leaves them out.
_Item = Annotated[
    Annotated[Annotated[str, Field(max_length=MAX_CLASS_CHARACTERS)], Tag("<text>")]
    | Annotated[ClassItem, Tag("<item>")],
    by_form(
        lambda value: (
            "<text>" if isinstance(value, str) else "<item>" if isinstance(value, (dict, ClassItem)) else None
        ),
        ITEM_FORMS,
    ),
]
Prompt = Annotated[
    Annotated[Annotated[str, Field(max_length=MAX_CHARACTERS)], Tag("<text>")]
    | Annotated[Annotated[list[_Item], Field(max_length=MAX_CLASSES, fail_fast=True)], Tag("<list>")],
    by_form(
        lambda value: "<text>" if isinstance(value, str) else "<list>" if isinstance(value, list) else None,
        PROMPT_FORMS,
    ),
]


class TileItem(Fields):
    """Square tiles, in pixels of the upright image. An overlap is at most half of the size."""

    size: Annotated[int, Field(strict=True, ge=MIN_SIZE, le=MAX_SIZE)]
    overlap: Annotated[int, Field(strict=True, ge=MIN_OVERLAP, le=MAX_SIZE // 2)]


Tile = Annotated[
    Annotated[Literal["auto"], Tag("<auto>")] | Annotated[TileItem, Tag("<size>")],
    by_form(
        lambda value: "<auto>" if value == "auto" else "<size>" if isinstance(value, (dict, TileItem)) else None,
        TILE_FORMS,
    ),
]


class DetectFields(Fields):
    """Every field of `POST /v1/detect` but the picture. A threshold left out is the model's own."""

    json_text: ClassVar[Mapping[str, str]] = {"prompt": _LIST, "negative_prompt": _LIST, "tile": r"\s*\{"}

    prompt: Annotated[Prompt, Field(description="What to look for: `car, wheel`, or a list of texts or of items.")]
    mode: Annotated[
        Literal["classes", "phrase"], Field(description="`phrase`: the text is one expression, commas and all.")
    ] = "classes"
    negative_prompt: Annotated[
        Prompt | None, Field(description="What to leave out: its boxes remove the weaker ones that they overlap.")
    ] = None
    model: Annotated[str | None, Field(max_length=200, description="`detector+segmenter`; see `/v1/models`.")] = None
    box_threshold: Annotated[
        Fraction | None, Field(description="Least `score` of a box. Null: the model's own, see `/v1/models`.")
    ] = None
    text_threshold: Annotated[
        Fraction | None, Field(description="Least `text_score` of a box. Null: the model's own.")
    ] = None
    nms: Annotated[
        Literal["class", "agnostic", "off"], Field(description="Drop overlapping boxes of one class, of any, or none.")
    ] = "class"
    nms_threshold: Annotated[
        Fraction, Field(description="Of two boxes that overlap by more than this IoU, the better one stays.")
    ] = 0.7
    negative_iou: Annotated[
        Fraction, Field(description="IoU with a better box of `negative_prompt` from which a box goes.")
    ] = 0.5
    min_area: Annotated[Fraction, Field(description="Area of the box divided by the area of the image.")] = 0.0
    max_area: Annotated[Fraction, Field(description="Likewise: a box around the whole scene is rarely meant.")] = 1.0
    max_detections: Annotated[
        int, Field(ge=1, le=MAX_DETECTIONS, description="The best of them; `removed.cap` counts the others.")
    ] = 100
    tile: Annotated[
        Tile | None,
        Field(
            description="For large images: by tiles, merged across seams; as large as an object and its surroundings, "
            "overlapping by an object. Not with `raw`."
        ),
    ] = None
    raw: Annotated[
        bool,
        Field(
            description="As the published COCO evaluation: the best `max_detections` pairs of a box and a class, by "
            "mean token probability (`score` and `text_score`). Thresholds, a class's own too, and `nms` do not "
            "apply; areas do. Not with `negative_prompt`."
        ),
    ] = False


class SegmentFields(DetectFields):
    """Every field of `POST /v1/segment` but the picture."""

    multimask: Annotated[bool, Field(description="Take the best of three masks by their predicted IoU.")] = False
    masks: Annotated[
        Literal["rle", "polygon", "png", "none"],
        Field(description="COCO run lengths; rings in pixel corners; a PNG of 0 and 255; or boxes only."),
    ] = "rle"


class DetectForm(DetectFields):
    """The same fields as a form. A list in `prompt` is JSON text, and so is the size in `tile`."""

    model_config = ConfigDict(strict=False)


class DetectRequest(DetectFields, WithImage):
    """The JSON body of `POST /v1/detect`."""


class SegmentForm(SegmentFields):
    """The same fields as a form. A list in `prompt` is JSON text, and so is the size in `tile`."""

    model_config = ConfigDict(strict=False)


class SegmentRequest(SegmentFields, WithImage):
    """The JSON body of `POST /v1/segment`."""


def plain_prompt(prompt: str | list[str | ClassItem]) -> str | list[str | dict[str, Any]]:
    """A prompt as `pipeline.prompt.parse_classes` takes it."""
    if isinstance(prompt, str):
        return prompt
    return [item if isinstance(item, str) else item.model_dump(exclude_none=True) for item in prompt]
