"""What a request for masks without text may hold. What its numbers mean is checked by `pipeline.mask_prompts`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, Tag

from deployments.http.fields import Fields, WithImage, by_form
from pipeline.formats.low_res import MAX_SIDE
from pipeline.mask_prompts import MAX_INSTANCES, MAX_LOW_RES, MAX_POINTS

_LOW_RES_CHARACTERS = 4 * -(-2 * MAX_SIDE**2 // 3)

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]  # strict inside a form too: it is JSON
Box = Annotated[list[Number], Field(min_length=4, max_length=4, fail_fast=True)]
Point = Annotated[list[Number], Field(min_length=3, max_length=3, fail_fast=True)]
PointsOfOne = Annotated[list[Point], Field(max_length=MAX_POINTS, fail_fast=True)]
Side = Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE)]


def _depth(points: Any) -> str | None:
    """Whether `points` is of one instance: there, the first thing inside a point is no list. None: it is no list."""
    if not isinstance(points, list):
        return None
    firsts = (item[0] for item in points if isinstance(item, list) and item)
    return "<many>" if isinstance(next(firsts, []), list) else "<one>"


# The tags in angle brackets name the branch of a union; a refusal's `param` leaves them out.
Points = Annotated[
    Annotated[PointsOfOne, Tag("<one>")]
    | Annotated[Annotated[list[PointsOfOne], Field(max_length=MAX_INSTANCES, fail_fast=True)], Tag("<many>")],
    by_form(_depth, "must be a list of [x, y, label], or one such list for each instance"),
]


class LowRes(Fields):
    """A low-resolution mask of an earlier answer, as it was given."""

    shape: Annotated[list[Side], Field(min_length=2, max_length=2, fail_fast=True)]
    dtype: Literal["float16"]
    data: Annotated[str, Field(max_length=_LOW_RES_CHARACTERS, description="base64, little-endian, row by row")]


class MasksFields(Fields):
    """Every field of `POST /v1/masks` but the picture: one prompt an instance, by boxes, by points, or by both.

    Those of `boxes`, `points` and `mask_input` that are given have equal lengths.
    """

    room: ClassVar[int] = 2**24  # for MAX_LOW_RES of the largest
    json_text: ClassVar[Mapping[str, str]] = {"boxes": "", "points": "", "mask_input": ""}

    boxes: Annotated[
        list[Box] | None,
        Field(
            min_length=1,
            max_length=MAX_INSTANCES,
            fail_fast=True,
            description="`[x0, y0, x1, y1]` in pixels of the upright image; what reaches beyond it is clipped.",
        ),
    ] = None
    points: Annotated[
        Points | None,
        Field(
            description="`[x, y, label]`, label 1 for foreground and 0 for background: a list of them for one instance,"
            " or such a list for each. An instance with a box may have none."
        ),
    ] = None
    mask_input: Annotated[
        list[LowRes] | None,
        Field(
            min_length=1,
            max_length=MAX_LOW_RES,
            fail_fast=True,
            description="`low_res` of earlier answers, to be refined.",
        ),
    ] = None
    model: Annotated[str | None, Field(max_length=200, description="`detector+segmenter`; see `/v1/models`.")] = None
    multimask: Annotated[
        bool, Field(description="Take the best of three masks by their predicted IoU; `alternatives` has all three.")
    ] = False
    low_res: Annotated[
        bool, Field(description=f"Also return what `mask_input` takes; for at most {MAX_LOW_RES} instances.")
    ] = False
    masks: Annotated[
        Literal["rle", "polygon", "png", "none"],
        Field(description="COCO run lengths; rings in pixel corners; a PNG of 0 and 255; or no masks, all else."),
    ] = "rle"


class MasksForm(MasksFields):
    """The same fields as a form. Lists are JSON text."""

    model_config = ConfigDict(strict=False)


class MasksRequest(MasksFields, WithImage):
    """The JSON body of `POST /v1/masks`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"image": {"type": "base64", "value": "…"}, "boxes": [[559.4, 209.7, 606.1, 267.2]]},
                {"image": {"type": "base64", "value": "…"}, "points": [[580, 240, 1], [560, 200, 0]], "low_res": True},
            ]
        }
    )
