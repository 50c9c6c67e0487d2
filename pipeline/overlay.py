"""The picture a person looks at: masks, boxes and labels drawn into the image."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pipeline.masks import BoolArray, decode_crop
from pipeline.stages import RLE, UInt8Array

if TYPE_CHECKING:
    from pipeline.result import Result

Colour = tuple[int, int, int]
_Box = tuple[float, float, float, float]

_TINT = 0.45  # how much of the class's colour a mask's pixels take on
_GOLDEN = (5**0.5 - 1) / 2  # steps of this part of the colour wheel never come close to an earlier one soon
_TONES = ((0.95, 1.0), (0.95, 0.6), (0.45, 1.0))  # saturation and value: another one for each turn of the wheel
_TURN = 13  # hues before the wheel is as full as the eye can still tell apart


def class_colour(class_id: int) -> Colour:
    """The RGB colour of a class: always the same, and far from those of its neighbours."""
    saturation, value = _TONES[class_id // _TURN % len(_TONES)]
    red, green, blue = colorsys.hsv_to_rgb(class_id * _GOLDEN % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw(image: UInt8Array, result: Result) -> UInt8Array:
    """Draw a result into a copy of its image.

    Masks are tinted and outlined in the colour of their class; every detection has its box, and a label with its
    score, sized to the image. The best detection is drawn last, on top.

    Args:
        image: `HxWx3` uint8 RGB, upright, of `result.image_size`.

    Returns:
        `HxWx3` uint8 RGB.

    Raises:
        ValueError: the image has another size or type.
    """
    if image.shape != (*result.image_size, 3) or image.dtype != np.uint8:
        height, width = result.image_size
        raise ValueError(f"the image must be {height}x{width}x3 of uint8, the size of the result's image")
    canvas = np.array(image)
    colours = [class_colour(int(class_id)) for class_id in result.class_ids]
    line = max(1, round(min(result.image_size) / 300))
    if result.rles is not None:
        for rle, colour in reversed(list(zip(result.rles, colours, strict=True))):
            _paint_mask(canvas, rle, colour, line)

    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    for box, colour in reversed(list(zip(result.boxes.tolist(), colours, strict=True))):
        pen.rectangle(_clipped(box, picture.size), outline=colour, width=line)
    taken: list[_Box] = []
    for index, (box, colour) in enumerate(zip(result.boxes.tolist(), colours, strict=True)):
        text = f"{' '.join(result.labels[index].split())} {result.scores[index]:.2f}"
        taken.append(_draw_label(pen, picture.size, box, text, colour, taken))
    return np.array(picture)


def _paint_mask(canvas: UInt8Array, rle: RLE, colour: Colour, line: int) -> None:
    mask, (y0, x0) = decode_crop(rle)
    pixels = canvas[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]]
    paint = np.array(colour, np.float32)
    pixels[mask] = (pixels[mask] * np.float32(1 - _TINT) + paint * np.float32(_TINT)).round()
    pixels[mask & ~_eroded(mask, line)] = colour


def _eroded(mask: BoolArray, steps: int) -> BoolArray:
    """The pixels whose neighbours to `steps` in the four directions are all in the mask; beyond it is nothing."""
    inner = np.pad(mask, 1)
    for _ in range(steps):
        core = inner[1:-1, 1:-1]
        core = core & inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        inner = np.pad(core, 1)
    result: npt.NDArray[np.bool_] = inner[1:-1, 1:-1]
    return result


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _draw_label(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], box: list[float], text: str, colour: Colour, taken: list[_Box]
) -> _Box:
    """Draw a label at its box where it covers no earlier label, if there is such a place; the rectangle it took."""
    width, height = size
    font = _font(min(64, max(12, round(min(size) / 40))))
    text = _fitted(pen, text, font, width)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    pad = max(1, round((bottom - top) / 6))
    w, h = right - left + 2 * pad, bottom - top + 2 * pad
    x0, y0, x1, y1 = box
    places = [(x0, y0 - h), (x0, y0), (x0, y1), (x1 - w, y0 - h), (x1 - w, y1), (x0, y1 - h)]
    # Pushed inside the picture, from whichever side it sticks out.
    corners = [(max(0.0, min(x, width - w)), max(0.0, min(y, height - h))) for x, y in places]
    rectangles = [(x, y, x + w, y + h) for x, y in corners]
    free = (one for one in rectangles if not any(_touch(one, other) for other in taken))
    place = next(free, rectangles[0])
    pen.rectangle(place, fill=colour)
    ink = "black" if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else "white"
    pen.text((place[0] + pad - left, place[1] + pad - top), text, fill=ink, font=font)
    return place


def _fitted(pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, its label shortened where it is wider than the picture; the score at its end stays."""
    label, _, score = text.rpartition(" ")
    label = label[:200]  # measured once for each letter that goes
    text = f"{label} {score}"
    while label and pen.textlength(text, font=font) > 0.95 * width:
        label = label[:-1]
        text = f"{label.rstrip()}… {score}"
    return text


def _clipped(box: list[float], size: tuple[int, int]) -> _Box:
    """The box's outline, whole pixels within the picture."""
    width, height = size
    x0, y0 = min(max(0, round(box[0])), width - 1), min(max(0, round(box[1])), height - 1)
    return x0, y0, max(x0, min(round(box[2]), width) - 1), max(y0, min(round(box[3]), height) - 1)


def _touch(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
