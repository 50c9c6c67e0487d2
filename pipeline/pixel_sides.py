"""The outlines of a mask along the edges of its pixels: what polygons are made of."""

from __future__ import annotations

import numpy as np

from pipeline.masks import BoolArray, Int64Array


class PixelSides:
    """The horizontal sides of all rings around the foreground of a window, from top to bottom and left to right.

    Side `i` reaches from corner `2 i`, its left end, to corner `2 i + 1`. Rings run with the foreground on their right
    hand. Where two foreground pixels touch at a corner only, that corner occurs twice: as the right end of one side
    and the left end of the next.

    Attributes:
        x, y: `(2 K,)` int64, the corners, in pixels of the window.
        right: `(K,)` bool, sides that run to the right: the foreground is below them. The others have it above.
        tails, heads: `(K,)` int64, the corners where each side starts and ends.
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
        self.y, self.x = np.divmod(np.repeat(corner, 1 + twice), width + 1)
        self.right: BoolArray = padded[1 + self.y[::2], 1 + self.x[::2]]
        self.tails: Int64Array = 2 * np.arange(len(self.right)) + ~self.right
        self.heads: Int64Array = self.tails ^ 1
        at = np.flatnonzero(twice)
        self._touch: Int64Array = at + np.arange(len(at))  # the first of each two corners in one place
        # The pixels that touch are top right and bottom left, not top left and bottom right.
        self._rising: BoolArray = ~self.right[(self._touch + 1) // 2]
        self._place = self._order_of_columns()

    def apart(self) -> Int64Array:
        """`(2 K,)` int64: the corner at the other end of the vertical side that joins each corner.

        Around corners where pixels touch, each pixel is gone around for itself: so a ring stays with one 4-connected
        part, but comes by the corner twice where a part touches itself.
        """
        return self._across(self._rising)

    def simple(self) -> Int64Array:
        """The same, but where a part touches itself its ring is split in two, so that none comes by a corner twice."""
        across = self.apart()
        if not len(self._touch):
            return across
        order, starts = self.rings(across)
        ring = ring_of(order, starts)
        itself = ring[self._touch // 2] == ring[(self._touch + 1) // 2]
        return self._across(self._rising ^ itself)

    def rings(self, across: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Sides in the order in which rings run through them, and where each ring starts; topmost sides first."""
        return cycles(across[self.heads] // 2)

    def _order_of_columns(self) -> Int64Array:
        """Corners column by column, each from top to bottom."""
        small = self.x.astype(np.uint16) if self.x.max(initial=0) < 2**16 else self.x  # sorted in linear time
        return np.argsort(small, kind="stable")

    def _across(self, swapped: BoolArray) -> Int64Array:
        """The other ends of vertical sides; of two corners in one place the first is the lower side's in `swapped`."""
        column = self._place.copy()
        rank = np.empty(len(column), np.int64)
        rank[column] = np.arange(len(column))
        first = rank[self._touch[swapped]]
        column[first], column[first + 1] = column[first + 1], column[first]
        # In a column two corners each, from top to bottom, are the ends of a vertical side.
        across = np.empty(len(column), np.int64)
        across[column[::2]], across[column[1::2]] = column[1::2], column[::2]
        return across


def cycles(successor: Int64Array) -> tuple[Int64Array, Int64Array]:
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


def ring_of(order: Int64Array, starts: Int64Array) -> Int64Array:
    """For each side the number of its ring."""
    ring = np.empty(len(order), np.int64)
    ring[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
    return ring


def sides_above(window: BoolArray, sides: PixelSides, x: Int64Array, y: Int64Array) -> Int64Array:
    """Straight up from each foreground pixel `x, y`, the side at which the foreground ends: `sides.right` holds of it.

    It is one of the same 4-connected part.
    """
    height, width = window.shape
    top = window.copy()  # foreground pixels without one above
    top[1:] &= ~window[:-1]
    tops = np.flatnonzero(top.T)
    y = tops[np.searchsorted(tops, x * height + y, side="right") - 1] - x * height
    key = sides.y[::2] * (width + 1) + sides.x[::2]
    side: Int64Array = np.searchsorted(key, y * (width + 1) + x, side="right") - 1
    return side
