"""Few padded shapes for images of any aspect, so that more of them share a batch. No torch here.

A detector resizes an image to a shorter side S, unless its longer side would exceed L. So shapes differ by the aspect
alone, and a table of aspects is one of shapes. The shape of an image is a function of that image, never of its batch.
"""

from __future__ import annotations

import math
from functools import lru_cache

_STEP = 32  # the coarsest stride of the backbone
# Longer side by shorter side, each just above a common one: 1, 5:4, 4:3, 3:2, 16:9; then by what few images have.
_ASPECTS = (1.0, 1.25, 4 / 3, 1.5, 16 / 9, 2.25, 3.0, 4.0)


def bucket(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """The shape that a resized image is padded to: of those that hold it, the one with the fewest pixels.

    Args:
        size: `(height, width)` of the resized image.
        short, long: S and L, to which images are resized.
    """
    upright = size[0] > size[1]
    low, high = min(size), max(size)
    own = (_up(low), _up(high))  # of slivers: rounding their shorter side may have made the longer one exceed L
    side, longer = next((one for one in _shapes(short, long) if one[0] >= low and one[1] >= high), own)
    return (longer, side) if upright else (side, longer)


@lru_cache(maxsize=8)
def _shapes(short: int, long: int) -> tuple[tuple[int, int], ...]:
    """`(shorter side, longer side)`, fewest pixels first."""
    wide = [(short, min(long, round(short * aspect))) for aspect in _ASPECTS]
    # Of longer ones the longer side is L, and the shorter one below S.
    flat = [(round(long / aspect), long) for aspect in (*_ASPECTS, 8.0) if short * aspect > long]
    shapes = {(_up(side), _up(longer)) for side, longer in (*wide, *flat, (short, long))}
    return tuple(sorted(shapes, key=lambda shape: shape[0] * shape[1]))


def _up(side: int) -> int:
    return math.ceil(side / _STEP) * _STEP
