"""Results as LabelMe's JSON, which lies beside an image and is opened with it.

LabelMe's polygons have no holes and are one part each. So every part is a shape of its own, those of one instance
share a `group_id`, and a hole is reached by a bridge: a line from the outline, there and back. Right and lower outlines
are moved inwards by 0.01 pixels: LabelMe's window shows points between pixels, but LabelMe's own export draws the
polygon through the pixels that the points' whole parts name, the outline included; thus both show the same mask.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.formats.answer import number
from pipeline.masks import decode_crop
from pipeline.polygons import simplify, trace_bridged
from pipeline.stages import RLE

if TYPE_CHECKING:
    from pipeline.result import Result

_VERSION = "5.5.0"  # of LabelMe, whose files these are like
_INSET = 0.01


def to_labelme(
    result: Result, image_path: str, image_data: bytes | None, form: Literal["polygon", "mask"], tolerance: float
) -> dict[str, Any]:
    """The JSON that LabelMe opens.

    Each shape carries `score` besides LabelMe's own fields, which keeps it. Instances without a mask pixel are left
    out; where no masks were asked for, the shapes are rectangles.

    Args:
        result: of the image.
        image_path: of the image, from where the JSON will lie.
        image_data: the image's file, to be held in the JSON too; it must be upright without its EXIF orientation.
        form: `"polygon"`, or `"mask"`: LabelMe's bitmaps, which have holes and parts of their own.
        tolerance: pixels by which polygons may differ from the mask, for fewer points to edit; 0: they are exact.

    Raises:
        ValueError: there is no such form, or the tolerance is negative.
    """
    if form not in ("polygon", "mask"):
        raise ValueError(f"{form!r} is no form of LabelMe's shapes; take 'polygon' or 'mask'")
    if not tolerance >= 0:
        raise ValueError("the tolerance must be 0 or more pixels")
    height, width = result.image_size
    shapes = []
    for index, label in enumerate(result.labels):
        if result.rles is None:
            box = [number(side) for side in result.boxes[index]]
            made = [_shape("rectangle", [box[:2], box[2:]])]
        elif form == "mask":
            made = list(_bitmap(result.rles[index]))
        else:
            made = _polygons(result.rles[index], tolerance)
        group = index if len(made) > 1 else None
        named = {"label": label, "score": number(result.scores[index]), "group_id": group}
        shapes += [{**shape, **named} for shape in made]
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None if image_data is None else b64encode(image_data).decode("ascii"),
        "imageHeight": height,
        "imageWidth": width,
    }


def _polygons(rle: RLE, tolerance: float) -> list[dict[str, Any]]:
    rings = trace_bridged(rle, _INSET)
    if tolerance:
        rings = [simplify(ring, tolerance) for ring in rings]
    return [_shape("polygon", ring.round(2).tolist()) for ring in rings]


def _bitmap(rle: RLE) -> Iterator[dict[str, Any]]:
    from PIL import Image  # here, since polygons need no PIL

    window, (y0, x0) = decode_crop(rle)
    if window.size:
        height, width = window.shape
        file = BytesIO()
        Image.fromarray(window.view(np.uint8)).save(file, "PNG")  # of 0 and 1, as LabelMe's own
        corners = [[x0, y0], [x0 + width - 1, y0 + height - 1]]  # the last pixel included
        yield _shape("mask", corners) | {"mask": b64encode(file.getvalue()).decode("ascii")}


def _shape(kind: str, points: list[list[float]]) -> dict[str, Any]:
    return {"label": "", "points": points, "group_id": None, "description": "", "shape_type": kind, "flags": {}}
