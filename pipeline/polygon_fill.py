"""Any polygons -> a mask, in numpy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.errors import StageError
from pipeline.masks import Int64Array, encode_edges
from pipeline.stages import RLE

Float64Array = npt.NDArray[np.float64]


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


def _ring(ring: npt.ArrayLike) -> Float64Array:
    """`(K, 2)` float64 points."""
    try:
        points = np.asarray(ring, np.float64)
    except (TypeError, ValueError, OverflowError):  # an integer beyond any float
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
