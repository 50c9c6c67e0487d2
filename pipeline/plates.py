"""The labels of a picture: which font has their letters, how large they are, how they are shortened, where they go."""

from __future__ import annotations

import math
import os
import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw, ImageFont

from pipeline.palette import Colour, ink
from pipeline.stages import Int32Array

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

SMALL = 640
"""Pixels of the longer side. Below it letters take more than their usual share of a picture, since they must stay
legible: so there plates spare what is seen, and one that cannot is left out."""
# Of a small picture, what one plate may take and what all may: with more, one looks at plates instead of the picture;
# with less, no word would fit into 64x64, where "star" takes 1/12.
_ONE, _ALL = 1 / 12, 1 / 5
_HIDDEN = 1 / 3  # of what is seen of an instance in a small picture, for all plates: the rest still tells what it is
_FEWEST = 3  # letters that a shortened label keeps: fewer name nothing


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
        count: of instances.
        shown: of a `SMALL` picture: `(H, W)`, the index of the instance that is seen at a pixel, -1 for none.
    """

    def __init__(
        self, pen: ImageDraw.ImageDraw, size: tuple[int, int], letters: int, count: int, shown: Int32Array | None = None
    ) -> None:
        self._pen = pen
        self._height, self._width = size
        self._letters = letters
        self._taken = np.zeros((count, 4))
        self._count = 0
        self._shown = shown
        self._one, self._left = (math.inf, math.inf) if shown is None else (_ONE * shown.size, _ALL * shown.size)
        self._seen = self._pixels(shown) if shown is not None else np.zeros(count, np.intp)
        self._hidden = np.zeros_like(self._seen)

    def draw(self, index: int, box: Box, label: str, score: str, number: int, colour: Colour) -> bool:
        """Draw an instance's label at its box; False, and nothing drawn, where no place there is free.

        A label that is too long goes without its score, then shortened; not to less than a few letters. One of letters
        that no font here has is replaced by `#number`.
        """
        whole, font = _drawable(label, number, self._letters)
        pad = max(1, round(self._letters / 6))
        limit = min(0.95 * self._width, max(0.5 * self._width, box[2] - box[0], 20 * self._letters))
        _, top, _, bottom = self._pen.textbbox((0, 0), f"Ag{whole}", font=font)  # Ag: plates of one height
        room = min(self._one, self._left) / (bottom - top + 2 * pad + 1) - 2 * pad - 2
        text = _fitted(whole, score, font, min(limit, room))
        if text is None:
            return False
        left, _, right, _ = self._pen.textbbox((0, 0), text, font=font)
        _, top, _, bottom = self._pen.textbbox((0, 0), f"Ag{text}", font=font)
        place = self._place(index, box, right - left + 2 * pad, bottom - top + 2 * pad)
        if place is None:
            return False
        self._pen.rectangle(place, fill=colour)
        self._pen.text((place[0] + pad - left, place[1] + pad - top), text, fill=ink(colour), font=font)
        self._taken[self._count] = place
        self._count += 1
        self._left -= (place[2] - place[0] + 1) * (place[3] - place[1] + 1)
        return True

    def _place(self, index: int, box: Box, w: float, h: float) -> Box | None:
        """Above the box, in its corners, below it, or in its middle; pushed inside the picture. None: nowhere."""
        if w >= self._width or h >= self._height:
            return None
        x0, y0, x1, y1 = box
        middle = (x0 + x1 - w) / 2, (y0 + y1 - h) / 2
        top = y0 - h if self._shown is None else y0 - h - 1  # usually on the box's line; in a small picture clear of it
        places = [(x0, top), (x0, y0), (x0, y1), (x1 - w, top), (x1 - w, y1), (x0, y1 - h), (x1 - w, y0), middle]
        corners = np.clip(places, 0, (self._width - w, self._height - h)).round()
        taken = self._taken[: self._count]
        free: list[Box] = []
        for x, y in corners.tolist():
            apart = (taken[:, 2] < x) | (taken[:, 0] > x + w) | (taken[:, 3] < y) | (taken[:, 1] > y + h)
            if apart.all():
                free.append((x, y, x + w, y + h))
        return next(iter(free), None) if self._shown is None else self._sparing(index, free, self._shown)

    def _sparing(self, index: int, places: list[Box], shown: Int32Array) -> Box | None:
        """The place that hides least of other instances, then of its own; None where each hides too much of one."""
        choices: list[tuple[Box, npt.NDArray[np.intp]]] = []
        for x0, y0, x1, y1 in places:
            hidden = self._pixels(shown[int(y0) : math.ceil(y1) + 1, int(x0) : math.ceil(x1) + 1])
            if (self._hidden + hidden <= _HIDDEN * self._seen).all():
                choices.append(((x0, y0, x1, y1), hidden))
        if not choices:
            return None
        place, hidden = min(choices, key=lambda one: (one[1].sum() - one[1][index], one[1][index]))
        self._hidden += hidden
        return place

    def _pixels(self, shown: Int32Array) -> npt.NDArray[np.intp]:
        """How many pixels of each instance are in a window of what is shown."""
        return np.bincount(shown.ravel() + 1, minlength=len(self._taken) + 1)[1:]


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


def _fitted(label: str, score: str, font: Font, limit: float) -> str | None:
    """The label with its score, without it, or shortened; None where less than a few letters would be left."""
    whole = f"{label} {score}".rstrip()
    for text in (whole, label):
        if font.getlength(text) <= limit:
            return text
    too_long = bisect_left(range(len(label)), True, key=lambda n: font.getlength(f"{label[:n].rstrip()}…") > limit)
    kept = label[: max(0, too_long - 1)].rstrip()
    return f"{kept}…" if len(kept) >= _FEWEST else None
