"""Masks as polygons that lose nothing, and back, in numpy alone.

A ring runs along the edges of pixels: its vertices are pixel corners `(x, y)`, its sides are horizontal and vertical in
turn, and a pixel is inside if its centre is. Filling the rings by the even-odd rule gives the mask back exactly.

Parts are 4-connected: pixels that touch only at a corner are two parts. So no ring touches itself, and a hole touches
its exterior or another hole at most in single points: these are valid polygons to any library. (8-connected parts
would need rings that cross a point twice.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.errors import StageError
from pipeline.masks import BoolArray, Int64Array, decode_crop, encode_edges
from pipeline.stages import RLE

Float64Array = npt.NDArray[np.float64]

Ring = Int64Array
"""`(K, 2)` int64 `x, y` of pixel corners, not closed; exteriors clockwise as seen on the picture, holes the other way.
"""

Part = list[Ring]
"""The exterior of a connected part, then its holes."""


def trace(rle: RLE) -> list[Part]:
    """The parts of a mask, from top to bottom; none for an empty one.

    Costs as much as the window that holds the foreground is large.

    Raises:
        StageError: `invalid_value`, for counts that are malformed or do not fill the size.
    """
    window, (y0, x0) = decode_crop(rle)
    if not window.size:
        return []
    sides = _Sides(window)
    order, starts = sides.rings()
    points = sides.points(order) + np.array([x0, y0])
    exterior = sides.right[order[starts]]  # the first side of a ring is its topmost: foreground below, or a hole
    part = _parents(window, sides, order, starts, exterior)
    parts: dict[int, Part] = {}
    bounds = [*(2 * starts).tolist(), len(points)]
    # Rings are in the order of their topmost side, so an exterior comes before its holes.
    for ring, owner in enumerate(part.tolist()):
        parts.setdefault(owner, []).append(points[bounds[ring] : bounds[ring + 1]])
    return list(parts.values())


def fill(polygons: Sequence[Sequence[npt.ArrayLike]], size: tuple[int, int]) -> RLE:
    """The mask whose pixels have their centre inside, by the even-odd rule over all rings; the inverse of `trace`.

    Takes any polygons, not only those of `trace`, and costs as much as their outlines are long.

    Args:
        polygons: parts of rings `[[x, y], ...]`, closed or not, in pixels.
        size: `(height, width)` of the mask.

    Raises:
        StageError: `invalid_value`, for a ring that is no list of points, or leaves the image.
    """
    rings = [_ring(ring) for part in polygons for ring in part]
    places = np.sort(_crossings(*_outlines(rings, size), size))
    # Where two sides meet, the one undoes what the other does.
    first = np.flatnonzero(np.diff(places, prepend=-1))
    repeats = np.diff(first, append=len(places))
    return encode_edges(places[first[repeats % 2 == 1]], size)


class _Sides:
    """The horizontal sides of all rings of a window, from top to bottom and left to right.

    Side `i` reaches from corner `2 i` to corner `2 i + 1` of `x` and `y`; `right[i]`: it runs to the right, since the
    foreground is below it. Where two foreground pixels touch at a corner, that corner occurs twice: as the right end
    of one side and the left end of the next.
    """

    def __init__(self, window: BoolArray) -> None:
        height, width = window.shape
        padded = np.zeros((height + 2, width + 2), np.bool_)
        padded[1:-1, 1:-1] = window
        edge = padded[1:] != padded[:-1]  # between rows
        left, right, above = edge[:, :-1], edge[:, 1:], padded[:-1]
        touch = left & right & (above[:, :-1] != above[:, 1:])
        corner = np.flatnonzero((left != right) | touch)
        twice = touch.ravel()[corner]
        places = np.repeat(corner, 1 + twice)
        self.y, self.x = np.divmod(places, width + 1)
        self.right: BoolArray = padded[1 + self.y[::2], 1 + self.x[::2]]
        at = np.flatnonzero(twice)
        self._touch: Int64Array = at + np.arange(len(at))  # the first of each two corners in one place
        # Top right and bottom left, not top left and bottom right.
        self._rising: BoolArray = ~self.right[(self._touch + 1) // 2]

    def rings(self) -> tuple[Int64Array, Int64Array]:
        """Sides in the order in which rings run through them, and where each ring starts in that."""
        order, starts = self._follow(self._rising)
        if len(self._touch):
            # Each pixel for itself keeps parts apart. But where a part touches itself, its ring does so too; there the
            # other way to join the four sides splits it in two.
            ring = np.empty(len(order), np.int64)
            ring[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
            itself = ring[self._touch // 2] == ring[(self._touch + 1) // 2]
            if itself.any():
                order, starts = self._follow(self._rising ^ itself)
        return order, starts

    def points(self, order: Int64Array) -> Int64Array:
        """`(2 K, 2)` corners, those of each side of `order` in the direction of its ring."""
        tails = 2 * order + ~self.right[order]
        corners = np.stack([tails, tails ^ 1], axis=1).ravel()
        return np.stack([self.x[corners], self.y[corners]], axis=1)

    def _follow(self, swapped: BoolArray) -> tuple[Int64Array, Int64Array]:
        """Rings, where at the touching corners in `swapped` the second corner continues the upper vertical side."""
        small = self.x.astype(np.uint16) if self.x.max() < 2**16 else self.x  # sorted in linear time
        column = np.argsort(small, kind="stable")
        # In a column two corners each, from top to bottom, are the ends of a vertical side.
        place = np.empty(len(column), np.int64)
        place[column] = np.arange(len(column))
        first = place[self._touch[swapped]]
        column[first], column[first + 1] = column[first + 1], column[first]
        across = np.empty(len(column), np.int64)
        across[column[::2]], across[column[1::2]] = column[1::2], column[::2]
        heads = 2 * np.arange(len(self.right)) + self.right
        return _cycles(across[heads] // 2)


def _cycles(successor: Int64Array) -> tuple[Int64Array, Int64Array]:
    """The cycles of a permutation one after the other, each from its smallest number on, and their starts."""
    following = successor.tolist()  # one step after the other is what this is: a list is faster than an array
    seen = bytearray(len(following))
    order: list[int] = []
    starts: list[int] = []
    for start in range(len(following)):
        if not seen[start]:
            starts.append(len(order))
            while not seen[start]:
                seen[start] = 1
                order.append(start)
                start = following[start]
    return np.array(order, np.int64), np.array(starts, np.int64)


def _parents(
    window: BoolArray, sides: _Sides, order: Int64Array, starts: Int64Array, exterior: BoolArray
) -> Int64Array:
    """For each ring the exterior of its part, as the number of that ring.

    Straight up from a hole, the foreground ends at a side of the same part: of its exterior, or of a hole further up.
    """
    parent = np.arange(len(starts))
    holes = np.flatnonzero(~exterior)
    if not len(holes):
        return parent
    height, width = window.shape
    top = window.copy()  # foreground pixels without one above
    top[1:] &= ~window[:-1]
    tops = np.flatnonzero(top.T)
    corner = 2 * order[starts[holes]]
    x, y = sides.x[corner], sides.y[corner]
    y = tops[np.searchsorted(tops, x * height + y - 1, side="right") - 1] - x * height
    key = sides.y[::2] * (width + 1) + sides.x[::2]
    side = np.searchsorted(key, y * (width + 1) + x, side="right") - 1
    ring = np.empty(len(order), np.int64)
    ring[order] = np.repeat(parent, np.diff(starts, append=len(order)))
    parent[holes] = ring[side]
    while not exterior[parent].all():
        parent = parent[parent]
    return parent


def _ring(ring: npt.ArrayLike) -> Float64Array:
    """`(K, 2)` float64 points."""
    try:
        points = np.asarray(ring, np.float64)
    except (TypeError, ValueError):
        raise _malformed() from None
    if points.ndim != 2 or points.shape[1] != 2:
        raise _malformed()
    return points


def _outlines(rings: list[Float64Array], size: tuple[int, int]) -> tuple[Float64Array, Float64Array]:
    """All sides of all rings: `(K, 2)` points from which they start, and at which they end."""
    starts = np.concatenate([np.zeros((0, 2)), *rings])
    if not ((starts >= 0) & (starts <= [size[1], size[0]])).all():  # NaN fails it too
        raise _malformed()
    following = np.arange(1, len(starts) + 1)
    lengths = np.array([len(ring) for ring in rings if len(ring)], np.int64)
    last = np.cumsum(lengths) - 1
    following[last] = last + 1 - lengths
    return starts, starts[following]


def _crossings(starts: Float64Array, ends: Float64Array, size: tuple[int, int]) -> Int64Array:
    """Where the sides pass between the centres of two pixels of a column: the place of the lower one, column by column.

    A place one below the last of a column is the first of the next one.
    """
    height, width = size
    # Columns whose centre lies between both ends of a side, the left end included.
    columns = np.sort(np.ceil(np.stack([starts[:, 0], ends[:, 0]]) - 0.5).astype(np.int64), axis=0)
    counts = columns[1] - columns[0]
    if counts.sum() > 2 * (height + 1) * width:  # a few points could keep this busy for long
        raise StageError("invalid_value", "polygons have more sides than the image has", "mask")
    side = np.repeat(np.arange(len(starts)), counts)
    x = np.arange(len(side)) + (columns[0] - np.cumsum(counts) + counts)[side]
    (x0, y0), (x1, y1) = starts[side].T, ends[side].T
    y = y0 + (x + 0.5 - x0) * ((y1 - y0) / (x1 - x0))
    places: Int64Array = x * height + np.ceil(y - 0.5).astype(np.int64)
    return places


def _malformed() -> StageError:
    return StageError("invalid_value", "a polygon's ring is a list of points [x, y] within the image", "mask")
