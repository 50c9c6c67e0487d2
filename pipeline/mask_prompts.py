"""Boxes, points and earlier masks as a caller gives them -> `MaskPrompts`, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import StageError
from pipeline.stages import DecodeOptions, Float32Array, MaskPrompts

MAX_INSTANCES = 1000
MAX_POINTS = 100
"""Of one instance. People click a handful; each costs the decoder memory."""
MAX_LOW_RES = 64
"""Instances with `low_res` or `mask_input`. At official sizes each mask is 128 KiB, 171 KiB as base64, and with
`multimask` an instance returns four of them: 44 MiB in all."""

Numbers = Sequence[Any] | npt.NDArray[Any]
"""Nested sequences of numbers, or arrays; what shape is said where it is used."""


def parse_mask_prompts(
    boxes: Numbers | None, points: Numbers | None, mask_input: Numbers | None, options: DecodeOptions
) -> MaskPrompts:
    """One prompt an instance, checked as far as that goes without the image.

    Args:
        boxes: N of `x0, y0, x1, y1`, in pixels of the upright image.
        points: of one instance, a list of `x, y, label` (1 foreground, 0 background); or N such lists, of which one may
            be empty where its instance has a box.
        mask_input: N low-resolution logits `LxL` of earlier answers.
        options: how many masks are asked for bounds N.

    Raises:
        StageError: `invalid_value`, for anything that is not that, or more than the limits above.
    """
    if boxes is None and points is None:
        raise _refused("give boxes, points, or both", "boxes")
    parsed = MaskPrompts(
        boxes=None if boxes is None else _boxes(boxes),
        points=None if points is None else _points(points, boxes is not None),
        mask_inputs=None if mask_input is None else _mask_inputs(mask_input),
    )
    for name, given in (("points", parsed.points), ("mask_input", parsed.mask_inputs)):
        if given is not None and len(given) != len(parsed):
            raise _refused("must have one item for each instance, as many as the other prompts", name)
    if options.low_res and len(parsed) > MAX_LOW_RES:
        raise _refused(f"is available for at most {MAX_LOW_RES} instances; ask in several requests", "low_res")
    return parsed


def fit(prompts: MaskPrompts, size: tuple[int, int]) -> tuple[MaskPrompts, tuple[str, ...]]:
    """The prompts inside an image of `size` `(height, width)`, and warnings.

    Boxes are clipped: those of other tools reach beyond the image by a pixel or more, a mask cannot, and the service's
    own boxes are clipped too. A point is not moved: the click would select whatever lies at the edge.

    Raises:
        StageError: `invalid_value`, for a box without area in the image, or a point outside it.
    """
    height, width = size
    for number, points in enumerate(prompts.points or ()):
        inside = (points[:, :2] >= 0).all(1) & (points[:, 0] <= width) & (points[:, 1] <= height)
        if not inside.all():
            raise _refused(f"point {int(inside.argmin())} lies outside the image", f"points[{number}]")
    if prompts.boxes is None:
        return prompts, ()
    boxes = np.clip(prompts.boxes, 0, np.array([width, height, width, height], np.float32))
    empty = ~(boxes[:, 2:] > boxes[:, :2]).all(1)
    if empty.any():
        raise _refused("lies outside the image", f"boxes[{int(empty.argmax())}]")
    clipped = int((boxes != prompts.boxes).any(1).sum())
    warnings = (f"{clipped} of the boxes reached beyond the image and were clipped to it",) if clipped else ()
    return replace(prompts, boxes=boxes), warnings


def _boxes(given: Numbers) -> Float32Array:
    boxes = _numbers(given, "boxes")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise _refused("must be a list of [x0, y0, x1, y1], one for each instance", "boxes")
    _count(len(boxes), MAX_INSTANCES, "boxes")
    wrong = ~(boxes[:, 2:] > boxes[:, :2]).all(1)
    if wrong.any():
        raise _refused("x1 must be greater than x0, and y1 than y0", f"boxes[{int(wrong.argmax())}]")
    return boxes


def _points(given: Numbers, boxed: bool) -> tuple[Float32Array, ...]:
    try:
        # A list of points is of one instance: there, the first thing inside a point is a number.
        one = any(len(item) and isinstance(item[0], Real) for item in given)
        instances = [given] if one else list(given)
    except (TypeError, KeyError, IndexError):
        raise _refused("must be a list of [x, y, label], or one such list for each instance", "points") from None
    _count(len(instances), MAX_INSTANCES, "points")
    return tuple(_points_of_one(item, f"points[{number}]", boxed) for number, item in enumerate(instances))


def _points_of_one(given: Numbers, param: str, boxed: bool) -> Float32Array:
    points = _numbers(given, param)
    if points.shape[:1] == (0,):
        if not boxed:
            raise _refused("an instance without a box needs a point", param)
        return np.zeros((0, 3), np.float32)
    if points.ndim != 2 or points.shape[1] != 3:
        raise _refused("must be a list of [x, y, label]", param)
    if len(points) > MAX_POINTS:
        raise _refused(f"may have at most {MAX_POINTS} points", param)
    if not np.isin(points[:, 2], (0, 1)).all():
        raise _refused("a label must be 1 (foreground) or 0 (background)", param)
    return points


def _mask_inputs(given: Numbers) -> Float32Array:
    masks = _numbers(given, "mask_input")
    if masks.ndim != 3 or masks.shape[1] != masks.shape[2]:
        raise _refused("must be square low-resolution masks of one size, one for each instance", "mask_input")
    _count(len(masks), MAX_LOW_RES, "mask_input")
    return masks


def _numbers(given: Numbers, param: str) -> Float32Array:
    """`given` as finite float32."""
    try:
        found = np.asarray(given)
    except (ValueError, TypeError, OverflowError):  # lists of unequal lengths; integers beyond any float
        found = np.empty(0, object)
    if found.dtype.kind not in "iuf":
        raise _refused("must be numbers, in lists of equal lengths", param)
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused
        values = found.astype(np.float32)
    if not np.isfinite(values).all():
        raise _refused("must be finite numbers", param)
    return values


def _count(count: int, most: int, param: str) -> None:
    if not 1 <= count <= most:
        raise _refused(f"must have 1 to {most} items", param)


def _refused(message: str, param: str) -> StageError:
    return StageError("invalid_value", message, param)
