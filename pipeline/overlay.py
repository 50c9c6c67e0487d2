"""The picture a person looks at: masks, boxes and labels drawn into the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pipeline.image import from_pil
from pipeline.masks import BoolArray, decode_crop
from pipeline.palette import TONES, Colour, class_colour, ink, tone
from pipeline.plates import SMALL, Box, Plates, font_size
from pipeline.stages import RLE, Int32Array, UInt8Array

if TYPE_CHECKING:
    from pipeline.result import Result

_TINT = 0.5  # how much of its colour a mask's pixels take on
_NEAR = 0.02  # boxes closer than this part of the picture are neighbours


@dataclass(frozen=True, slots=True)
class Instance:
    """One thing to draw.

    Attributes:
        box: xyxy in pixels of the image.
        colour_id: which colour it has, one a class.
        label: drawn at the box; where no font has its letters, `#number` is.
        score: drawn behind the label where there is room; may be empty.
        number: what the label's letters are replaced by.
        mask: of the size of the image, or None.
    """

    box: Box
    colour_id: int
    label: str
    score: str
    number: int
    mask: RLE | None = None


def draw(image: Image.Image | UInt8Array, result: Result) -> UInt8Array:
    """Draw a result into a copy of its image.

    Lines and labels have the colour of their class; of instances of one class that are close together, the insides
    differ in tone. Labels are sized to the image and never cover each other; in a small image they spare what is
    seen of the instances, too. Where there is no room for one, its box and colour remain. The best detection is drawn
    last, on top, and its label first.

    Args:
        image: `HxWx3` uint8 RGB, upright, of `result.image_size`; or a PIL image, which is made upright.

    Returns:
        `HxWx3` uint8 RGB.

    Raises:
        ValueError: the image has another size or type, or a box is not finite.
    """
    pixels = from_pil(image) if isinstance(image, Image.Image) else image
    height, width = result.image_size
    if not isinstance(pixels, np.ndarray) or pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
        raise ValueError(
            f"the image must be {height}x{width}x3 of uint8, or a PIL image of that size, the one of the result's "
            "image; pipeline.load_image opens a file"
        )
    x0, y0, x1, y1 = result.boxes.T.tolist() if len(result) else ((),) * 4
    ids = result.class_ids.tolist()
    masks = (None,) * len(result) if result.rles is None else result.rles
    scores = (f"{score:.2f}" for score in result.scores)
    columns = zip(zip(x0, y0, x1, y1, strict=True), ids, result.labels, scores, ids, masks, strict=True)
    return paint(pixels, [Instance(*values) for values in columns])


def paint(image: UInt8Array, instances: Sequence[Instance]) -> UInt8Array:
    """Draw instances, the most important first in the list, into a copy of the image (`HxWx3` uint8).

    Raises:
        ValueError: a box is not finite.
    """
    for index, one in enumerate(instances):
        if not np.isfinite(one.box).all():
            raise ValueError(f"the boxes must be finite numbers, and box {index} is {one.box}")
    canvas = np.array(image)
    size = (image.shape[0], image.shape[1])
    line = max(1, round((size[0] * size[1]) ** 0.5 / 300))
    tones = _tones(instances, size)
    for one, number in reversed(list(zip(instances, tones, strict=True))):
        if one.mask is not None:
            colour = class_colour(one.colour_id)
            _paint_mask(canvas, one.mask, tone(colour, number), colour, line)

    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    for one in reversed(instances):
        pen.rectangle(_clipped(one.box, size), outline=class_colour(one.colour_id), width=line)
    letters = font_size(size, [f"{one.label} {one.score}" for one in instances])
    shown = _shown(instances, size) if max(size) < SMALL else None
    plates = Plates(pen, size, letters, len(instances), shown)
    for index, one in enumerate(instances):
        plates.draw(index, one.box, one.label, one.score, one.number, class_colour(one.colour_id))
    return np.array(picture)


def _shown(instances: Sequence[Instance], size: tuple[int, int]) -> Int32Array:
    """`(H, W)`: the index of the instance that is seen at a pixel, -1 for none; without a mask it is all of its box."""
    shown = np.full(size, -1, np.int32)
    for index, one in reversed(list(enumerate(instances))):
        if one.mask is None:
            x0, y0, x1, y1 = (int(side) for side in _clipped(one.box, size))
            shown[y0 : y1 + 1, x0 : x1 + 1] = index
        else:
            mask, (top, left) = decode_crop(one.mask)
            shown[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = index
    return shown


def _tones(instances: Sequence[Instance], size: tuple[int, int]) -> list[int]:
    """For each instance the tone that earlier ones of its class have least of in its neighbourhood."""
    boxes = np.array([one.box for one in instances], np.float64).reshape(-1, 4)
    boxes += np.array([-1, -1, 1, 1]) * _NEAR * max(size)
    classes = np.array([one.colour_id for one in instances])
    tones = np.zeros(len(instances), np.intp)
    for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        before = boxes[:i][classes[:i] == classes[i]]
        width = np.minimum(before[:, 2], x1) - np.maximum(before[:, 0], x0)
        height = np.minimum(before[:, 3], y1) - np.maximum(before[:, 1], y0)
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        tones[i] = np.bincount(tones[:i][classes[:i] == classes[i]], weights=shared, minlength=TONES).argmin()
    return [int(number) for number in tones]


def _paint_mask(canvas: UInt8Array, rle: RLE, inside: Colour, rim: Colour, line: int) -> None:
    mask, (y0, x0) = decode_crop(rle)
    pixels = canvas[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]]
    inner = _eroded(mask, line)
    edge, seam = mask & ~inner, inner & ~_eroded(inner, max(1, line // 2))
    for channel in range(3):  # by tables: nothing larger than the mask's own pixels is made
        plane = pixels[..., channel]
        mixed = (np.arange(256) * (1 - _TINT) + inside[channel] * _TINT).round().astype(np.uint8)
        plane[mask] = mixed[plane[mask]]
        plane[seam] = (plane[seam] + np.uint16(255 * (ink(rim) == "white"))) // 2
        plane[edge] = rim[channel]


def _eroded(mask: BoolArray, steps: int) -> BoolArray:
    """The pixels around which the square of `2 * steps + 1` a side is all in the mask; beyond it is nothing."""
    for axis in (0, 1):
        window: npt.NDArray[np.bool_] = np.pad(np.moveaxis(mask, axis, 0), ((steps, steps), (0, 0)))
        reach = 1
        while reach < 2 * steps + 1:  # each pixel stands for `reach` of them: doubled until it is the square's side
            step = min(reach, 2 * steps + 1 - reach)
            window = window[:-step] & window[step:]
            reach += step
        mask = np.moveaxis(window, 0, axis)
    return mask


def _clipped(box: Box, size: tuple[int, int]) -> Box:
    """The box's outline, whole pixels within the picture."""
    height, width = size
    x0, y0 = min(max(0, round(box[0])), width - 1), min(max(0, round(box[1])), height - 1)
    return x0, y0, max(x0, min(round(box[2]), width) - 1), max(y0, min(round(box[3]), height) - 1)
