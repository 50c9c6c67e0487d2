"""Masks as polygons that lose nothing, in numpy alone; `pipeline.polygon_fill` is the way back.

A ring runs along the edges of pixels: its vertices are pixel corners `(x, y)`, its sides are horizontal and vertical in
turn, and a pixel is inside if its centre is. Filling the rings by the even-odd rule gives the mask back exactly.

Parts are 4-connected: pixels that touch only at a corner are two parts. So no ring touches itself, and a hole touches
its exterior or another hole at most in single points: these are valid polygons to any library. (8-connected parts
would need rings that cross a point twice.)
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.masks import Int64Array, decode_crop
from pipeline.pixel_sides import PixelSides, cycles, ring_of, sides_above
from pipeline.stages import RLE

Number = TypeVar("Number", bound=np.generic)

Ring = Int64Array
"""`(K, 2)` int64 `x, y` of pixel corners, not closed; exteriors clockwise as seen on the picture, holes the other way.
"""

Part = list[Ring]
"""The exterior of a connected part, then its holes."""

FloatRing = npt.NDArray[np.float64]
"""`(K, 2)` float64 `x, y` in pixels, not closed."""


def trace(rle: RLE) -> list[Part]:
    """The parts of a mask, from top to bottom; none for an empty one.

    Costs as much as the window that holds the foreground is large.

    Raises:
        StageError: `invalid_value`, for counts that are malformed or do not fill the size.
    """
    window, (y0, x0) = decode_crop(rle)
    sides = PixelSides(window)
    order, starts = sides.rings(sides.simple())
    ends = np.stack([sides.tails[order], sides.heads[order]], axis=1).ravel()
    points = np.stack([sides.x[ends] + x0, sides.y[ends] + y0], axis=1)

    first = order[starts]  # the topmost side of each ring, so the foreground is below that of an exterior
    owner = np.arange(len(starts))
    holes = np.flatnonzero(~sides.right[first])
    if len(holes):
        corner = 2 * first[holes]
        owner[holes] = ring_of(order, starts)[sides_above(window, sides, sides.x[corner], sides.y[corner] - 1)]
    while not sides.right[first[owner]].all():  # above a hole may be another hole of the same part
        owner = owner[owner]

    parts: dict[int, Part] = {}
    # Rings are in the order of their topmost side, so an exterior comes before its holes.
    for number, ring in zip(owner.tolist(), _split(points, 2 * starts), strict=True):
        parts.setdefault(number, []).append(ring)
    return list(parts.values())


def trace_bridged(rle: RLE, inset: float = 0.0) -> list[FloatRing]:
    """The parts of a mask as one ring each, for programs whose polygons have no holes.

    Each hole is reached by a bridge: a line from the outline, straight down through the foreground, once there and
    once back. By the even-odd rule the rings still fill to exactly the mask.

    Args:
        inset: by how much right and lower outlines move inwards, less than 0.5. With a small one, the points' whole
            parts name foreground pixels: that is how a program draws the mask that counts pixels by their corners.

    Raises:
        StageError: as `trace`.
    """
    window, (y0, x0) = decode_crop(rle)
    sides = PixelSides(window)
    across = sides.apart()
    order, starts = sides.rings(across)
    first = order[starts]
    holes = first[~sides.right[first]]  # the top side of each
    start = sides.tails[holes]  # its right end; the pixel up and right of it is foreground
    target = sides_above(window, sides, sides.x[start], sides.y[start] - 1)

    # A right and a lower outline has the foreground at its left or above it.
    vertical = np.empty(len(across), np.bool_)
    vertical[sides.heads] = sides.y[across[sides.heads]] > sides.y[sides.heads]
    vertical[across[sides.heads]] = vertical[sides.heads]
    x = sides.x - inset * vertical
    y = sides.y - inset * ~np.repeat(sides.right, 2)

    # The ring as a chain of corners. Three more a hole: the bridge's foot, that again, and the hole's start again.
    count = len(across)
    foot = count + np.arange(len(holes))
    back, again = foot + len(holes), foot + 2 * len(holes)
    following = np.empty(count + 3 * len(holes), np.int64)
    following[sides.tails] = sides.heads
    following[sides.heads] = across[sides.heads]
    following[foot] = start
    following[across[start]] = again
    following[again] = back
    # Several bridges on one side follow each other from left to right.
    turn = np.lexsort([sides.x[start], target])
    opens = np.diff(target[turn], prepend=-1) != 0
    following[sides.tails[target[turn[opens]]]] = foot[turn[opens]]
    following[back[turn[:-1]]] = foot[turn[1:]]
    closes = np.roll(opens, -1)
    following[back[turn[closes]]] = sides.heads[target[turn[closes]]]

    feet = sides.y[sides.tails[target]]
    x = np.concatenate([x, sides.x[start], sides.x[start], x[start]])
    y = np.concatenate([y, feet, feet, y[start]])
    chain, begins = cycles(following)
    return _split(np.stack([x[chain] + x0, y[chain] + y0], axis=1), begins)


def simplify(ring: FloatRing, tolerance: float) -> FloatRing:
    """Fewer of a ring's points, so that those left out lie at most `tolerance` pixels from the new outline.

    By Douglas and Peucker: between two points that stay, the farthest one stays too, as long as it is too far away.
    Points that the ring comes by twice stay, so that bridges do not open. A ring never gets fewer than three points.
    """
    _, index, counts = np.unique(ring, axis=0, return_inverse=True, return_counts=True)
    stays = counts[index.ravel()] > 1
    stays[0] = stays[np.argmax(np.hypot(*(ring - ring[0]).T))] = True
    points, stays = np.vstack([ring, ring[:1]]), np.append(stays, True)
    while True:
        ends = np.flatnonzero(stays)
        inner = np.flatnonzero(~stays)
        piece = np.searchsorted(ends, inner) - 1
        far = _distances(points[inner], points[ends[piece]], points[ends[piece + 1]])
        starts = np.flatnonzero(np.diff(piece, prepend=-1))
        if not (far > tolerance).any():
            break
        farthest = np.repeat(np.maximum.reduceat(far, starts), np.diff(starts, append=len(piece)))
        stays[inner[(far == farthest) & (far > tolerance)]] = True
    return points[ends[:-1]] if len(ends) > 3 else ring


def _distances(points: FloatRing, starts: FloatRing, ends: FloatRing) -> npt.NDArray[np.float64]:
    """Of each point from the line between its start and its end."""
    along = ends - starts
    length = (along**2).sum(axis=1)
    share = np.divide(((points - starts) * along).sum(axis=1), length, out=np.zeros(len(points)), where=length > 0)
    nearest = starts + np.clip(share, 0, 1)[:, None] * along
    distances: npt.NDArray[np.float64] = np.hypot(*(points - nearest).T)
    return distances


def _split(points: npt.NDArray[Number], starts: Int64Array) -> list[npt.NDArray[Number]]:
    bounds = [*starts.tolist(), len(points)]
    return [points[start:end] for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
