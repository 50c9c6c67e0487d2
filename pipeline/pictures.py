"""Pictures in and out, as LangSAM's users know them. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.image import UPRIGHT, from_pil
from pipeline.masks import BoolArray, encode
from pipeline.overlay import Instance, paint
from pipeline.palette import COLOURS
from pipeline.stages import Float32Array, UInt8Array

if TYPE_CHECKING:
    from torch import Tensor

_ORIENTATION = 0x0112  # EXIF's tag
_FEW = 16  # classes whose colours are far apart
_SCORE = re.compile(r"\s+[01]?\.\d+$")
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def load_image(image_path: str | Path) -> Image.Image:
    """A picture file as an RGB image, upright, transparency on white.

    Raises:
        ValueError: the path is a URL. OSError: the file is missing or no picture.
    """
    if _URL.match(str(image_path)):
        raise ValueError("load_image reads files: fetch the URL first, and give the path of what it brought")
    with Image.open(image_path) as file:
        return Image.fromarray(from_pil(file))


def as_stored(image: Any, boxes: Float32Array, masks: BoolArray) -> tuple[Float32Array, BoolArray]:
    """What was found in a picture made upright, in the frame of the picture as it is stored, for drawing into that.

    Args:
        image: a PIL image, whose EXIF orientation counts; of anything else both frames are one.
        boxes: `(N,4)` xyxy in the upright picture.
        masks: `(N,H,W)` of the upright picture.

    Returns:
        Boxes and masks alike; sides of the masks swapped where the orientation swaps those of the picture.
    """
    orientation = image.getexif().get(_ORIENTATION) if isinstance(image, Image.Image) else None
    if orientation not in UPRIGHT:
        return boxes, masks
    rows, columns, swapped = _back(UPRIGHT[orientation])
    masks = np.ascontiguousarray(_turned(masks, rows, columns, swapped))
    _, height, width = masks.shape
    boxes = boxes[:, [1, 0, 3, 2] if swapped else [0, 1, 2, 3]]  # a copy either way
    if rows:
        boxes[:, [3, 1]] = height - boxes[:, [1, 3]]
    if columns:
        boxes[:, [2, 0]] = width - boxes[:, [0, 2]]
    return boxes, masks


@lru_cache
def _back(upright: Image.Transpose) -> tuple[bool, ...]:
    """The inverse of a turn, as the arguments of `_turned`: found by trying, on four pixels that all differ."""
    stored = np.arange(4, dtype=np.uint8).reshape(2, 2)
    turned = np.asarray(Image.fromarray(stored).transpose(upright))
    ways = product((False, True), repeat=3)
    return next(way for way in ways if np.array_equal(_turned(turned, *way), stored))


def _turned(pixels: npt.NDArray[Any], rows: bool, columns: bool, swapped: bool) -> npt.NDArray[Any]:
    """`(..., H, W)`: rows become columns, then the order of rows, and of columns, is reversed; each where wanted."""
    pixels = pixels.swapaxes(-1, -2) if swapped else pixels
    pixels = pixels[..., ::-1, :] if rows else pixels
    return pixels[..., ::-1] if columns else pixels


def draw_image(
    image: Image.Image | UInt8Array,
    masks: npt.ArrayLike | Tensor,
    boxes: npt.ArrayLike | Tensor,
    probs: npt.ArrayLike | Tensor | Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> UInt8Array:
    """Draw masks, boxes and labels into a copy of an image.

    Equal labels have the same colour, in every picture as far as it goes, and the same number where no font has their
    letters, by first appearance; a score at a label's end does not count.

    Args:
        image: a PIL image, or `HxWx3` uint8 RGB.
        masks: `(N,H,W)`, what is not zero is drawn; or empty. Arrays and torch tensors do, here and below.
        boxes: `(N,4)` xyxy.
        probs, labels: N texts, as the fourth argument (version 1), or after `probs`, which are not drawn (version 2).

    Returns:
        `HxWx3` uint8 RGB.

    Raises:
        ValueError: shapes or numbers do not fit together, or a box is not finite.
    """
    texts: Any = probs if labels is None else labels
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError("the image must be a PIL image, or HxWx3 of uint8")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
        corners = _numpy(boxes).astype(np.float32).reshape(-1, 4)
    windows = _numpy(masks)
    names = [str(text) for text in (() if texts is None else texts)]
    if windows.size and windows.shape != (len(corners), *pixels.shape[:2]):
        raise ValueError(f"masks must be {len(corners)}x{pixels.shape[0]}x{pixels.shape[1]}, not {windows.shape}")
    if len(names) != len(corners):
        raise ValueError(f"there are {len(corners)} boxes and {len(names)} labels")
    phrases = [_SCORE.sub("", name) for name in names]
    numbers = {phrase: number for number, phrase in enumerate(dict.fromkeys(phrases))}
    rles = [encode(mask) for mask in windows] if windows.size else [None] * len(names)
    sides = corners.T.tolist()
    columns = zip(zip(*sides, strict=True), _colours(phrases), names, phrases, rles, strict=True)
    return paint(
        pixels, [Instance(box, colour, name, "", numbers[phrase], rle) for box, colour, name, phrase, rle in columns]
    )


def _colours(names: list[str]) -> list[int]:
    """A colour for each name, by the name alone; where two names of a picture meet at one, the later takes the next."""
    pool = _FEW if len(set(names)) <= _FEW else COLOURS
    taken: dict[int, str] = {}
    for name in sorted(set(names)):
        colour = crc32(name.encode("utf-8", "replace")) % pool
        while colour in taken and len(taken) < pool:
            colour = (colour + 1) % pool
        taken.setdefault(colour, name)
    found = {name: colour for colour, name in taken.items()}
    return [found.get(name, crc32(name.encode("utf-8", "replace")) % pool) for name in names]


def _numpy(values: Any) -> npt.NDArray[Any]:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
