"""Masks as windows: a small array and where it lies in a large image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.masks import BoolArray
from pipeline.stages import Float32Array, Region

Window = tuple[BoolArray, tuple[int, int]]
"""A part of a mask, and its `(y0, x0)` in the image."""


def extent(window: Window) -> Region:
    """The pixels that a window spans."""
    mask, (y0, x0) = window
    return x0, y0, x0 + mask.shape[1], y0 + mask.shape[0]


def within(window: Window, region: Region) -> BoolArray:
    """The part of a window that lies in a region, as a view; possibly empty."""
    mask, (y0, x0) = window
    top, left = max(y0, region[1]), max(x0, region[0])
    bottom, right = max(top, min(y0 + mask.shape[0], region[3])), max(left, min(x0 + mask.shape[1], region[2]))
    return mask[top - y0 : bottom - y0, left - x0 : right - x0]


def common(a: Window, b: Window) -> int:
    """How many pixels two windows share."""
    return int(np.count_nonzero(within(a, extent(b)) & within(b, extent(a))))


def union(windows: Sequence[Window]) -> Window:
    """The smallest window that holds all of `windows`, not all of them empty."""
    extents = np.array([extent(window) for window in windows if window[0].size])
    x0, y0 = extents[:, :2].min(axis=0).tolist()
    x1, y1 = extents[:, 2:].max(axis=0).tolist()
    mask = np.zeros((y1 - y0, x1 - x0), np.bool_)
    for part, (top, left) in windows:
        mask[top - y0 : top - y0 + part.shape[0], left - x0 : left - x0 + part.shape[1]] |= part
    return mask, (y0, x0)


def shared(a: Region, b: Region) -> Region | None:
    """Where two regions overlap; None where they do not."""
    x0, y0, x1, y1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def clipped(boxes: Float32Array, region: Region) -> Float32Array:
    """Boxes `(N, 4)` cut to a region; empty where they lie outside."""
    x0, y0, x1, y1 = region
    return boxes.clip(np.array([x0, y0, x0, y0], np.float32), np.array([x1, y1, x1, y1], np.float32))
