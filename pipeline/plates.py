"""The labels of a picture: which font has their letters, how large they are, how they are shortened, where they go."""

from __future__ import annotations

import math
import os
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import ImageDraw, ImageFont

from pipeline.palette import Colour, ink

Box = tuple[float, float, float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FONT_VARIABLE = "TEXT2MASK_FONT"
"""Environment variable: a font file for letters that PIL's own font lacks, before those of the system."""

# PIL's own font, which is always there and the same everywhere, has little more than ASCII. For the rest, what systems
# have: Latin, Greek, Cyrillic, Hebrew, Arabic first, then Chinese, Japanese and Korean.
_OWN = ""
_SYSTEM = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "arial.ttf", "Arial Unicode.ttf", "segoeui.ttf")
_SYSTEM_CJK = ("NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "PingFang.ttc", "msyh.ttc", "msgothic.ttc", "malgun.ttf")
_NO_CHARACTER = "\U0010ffff"  # Unicode promises that it never means anything, so fonts draw their "missing" sign

_MAX_LETTERS = 200
_LETTER_AREA = 0.75  # of a letter with its share of the plate, as a part of the font size squared
_CROWDED = 0.15  # the part of the picture that all labels together may take before they get smaller


def font_size(size: tuple[int, int], texts: Sequence[str]) -> int:
    """Letters grow with the picture, so that they are read when it is shown as a whole, and shrink where many crowd it.

    Args:
        size: `(height, width)`.
        texts: all labels.

    Returns:
        pixels, 10 or more: below that no letter is legible.
    """
    height, width = size
    smallest = 10 if min(size) < 96 else 12
    usual = max(smallest, round(math.sqrt(height * width) / 45))
    letters = sum(min(len(text), _MAX_LETTERS) for text in texts)
    room = math.sqrt(_CROWDED * height * width / (_LETTER_AREA * max(1, letters)))
    return max(10, min(usual, round(room), height // 3))


class Plates:
    """Draws labels into one picture, the most important first; none covers an earlier one.

    Args:
        pen: of the picture.
        size: `(height, width)` of the picture.
        letters: font size in pixels.
        count: the largest number of labels.
    """

    def __init__(self, pen: ImageDraw.ImageDraw, size: tuple[int, int], letters: int, count: int) -> None:
        self._pen = pen
        self._height, self._width = size
        self._letters = letters
        self._taken = np.zeros((count, 4))
        self._count = 0

    def draw(self, box: Box, label: str, score: str, number: int, colour: Colour) -> bool:
        """Draw a label at its box; False, and nothing drawn, where no place there is free.

        A label that is too long goes without its score, then shortened. One of letters that no font here has is
        replaced by `#number`.
        """
        shown, font = _drawable(label, number, self._letters)
        limit = min(0.95 * self._width, max(0.5 * self._width, box[2] - box[0], 20 * self._letters))
        text = _fitted(shown, score, font, limit)
        left, _, right, _ = self._pen.textbbox((0, 0), text, font=font)
        _, top, _, bottom = self._pen.textbbox((0, 0), f"Ag{text}", font=font)  # plates of one height
        pad = max(1, round(self._letters / 6))
        place = self._free_place(box, right - left + 2 * pad, bottom - top + 2 * pad)
        if place is None:
            return False
        self._pen.rectangle(place, fill=colour)
        self._pen.text((place[0] + pad - left, place[1] + pad - top), text, fill=ink(colour), font=font)
        self._taken[self._count] = place
        self._count += 1
        return True

    def _free_place(self, box: Box, w: float, h: float) -> Box | None:
        """Above the box, in its corners, below it, or in its middle; pushed inside the picture."""
        x0, y0, x1, y1 = box
        middle = (x0 + x1 - w) / 2, (y0 + y1 - h) / 2
        places = [(x0, y0 - h), (x0, y0), (x0, y1), (x1 - w, y0 - h), (x1 - w, y1), (x0, y1 - h), (x1 - w, y0), middle]
        corners = np.clip(places, 0, np.maximum((self._width - w, self._height - h), 0)).round()
        taken = self._taken[: self._count]
        for x, y in corners.tolist():
            free = (taken[:, 2] < x) | (taken[:, 0] > x + w) | (taken[:, 3] < y) | (taken[:, 1] > y + h)
            if free.all():
                return x, y, x + w, y + h
        return None


def _drawable(label: str, number: int, size: int) -> tuple[str, Font]:
    """The label as it can be drawn, and the font that has its letters."""
    text = " ".join(label.split())[:_MAX_LETTERS]
    text = "".join(c for c in text if unicodedata.category(c)[0] != "C")  # invisible, or no character at all
    for name in _fonts():
        font = _font(name, size)
        if text and font is not None and all(_has(name, c) for c in text):
            return text, font
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    own = _font(_OWN, size)
    assert own is not None
    return (plain if plain and all(_has(_OWN, c) for c in plain) else f"#{number}"), own


def _fonts() -> tuple[str, ...]:
    chosen = os.environ.get(FONT_VARIABLE)
    return (_OWN, *((chosen,) if chosen else ()), *_SYSTEM, *_SYSTEM_CJK)


@lru_cache(maxsize=64)
def _font(name: str, size: int) -> Font | None:
    if name == _OWN:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _has(name: str, character: str) -> bool:
    """Whether a font draws something of its own for a character."""
    if character.isspace() or unicodedata.combining(character):
        return True
    font = _font(name, 20)
    return font is not None and _picture(font, character) != _picture(font, _NO_CHARACTER)


def _picture(font: Font, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


def _fitted(label: str, score: str, font: Font, limit: float) -> str:
    whole = f"{label} {score}".rstrip()
    for text in (whole, label):
        if font.getlength(text) <= limit:
            return text
    too_long = bisect_left(range(len(label)), True, key=lambda n: font.getlength(f"{label[:n].rstrip()}…") > limit)
    return f"{label[: max(1, too_long - 1)].rstrip()}…"
