"""COCO run-length masks and box overlaps, in numpy alone.

A mask is read column by column; `counts` are the lengths of its runs, zeros first, written as pycocotools does: from
the fourth on as the difference to the count before the last, in groups of five bits, as ASCII from 48. The result
equals that of pycocotools byte for byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import StageError
from pipeline.stages import RLE, Float32Array

BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]

_MAX_PIXELS = 2**31  # of a decoded mask: a few bytes of RLE can claim any size
_MAX_GROUPS = 8  # 40 bits, far above any count below _MAX_PIXELS


def encode(mask: npt.NDArray[Any]) -> RLE:
    """Encode an `(H, W)` mask; what is not zero is foreground."""
    height, width = mask.shape
    return encode_crop(mask, (0, 0), (height, width))


def encode_crop(mask: npt.NDArray[Any], offset: tuple[int, int], size: tuple[int, int]) -> RLE:
    """Encode a mask that is empty outside a window, without building it.

    Args:
        mask: `(h, w)` window of the mask; what is not zero is foreground.
        offset: `(y0, x0)` of the window in the mask.
        size: `(H, W)` of the mask.

    Raises:
        ValueError: the window does not lie within the mask.
    """
    (h, w), (y0, x0), (height, width) = mask.shape, offset, size
    if not (0 <= y0 <= height - h and 0 <= x0 <= width - w):
        raise ValueError(f"a window of {h}x{w} at {offset} does not lie within {height}x{width}")
    return encode_edges(_edges(mask.T, (x0, y0), (width, height)), size)


def encode_edges(edges: Int64Array, size: tuple[int, int]) -> RLE:
    """Encode a mask by the places where it changes.

    Args:
        edges: rising; column by column, foreground starts at the first, ends before the second, and so on. The last
            one may lie behind the last pixel.
        size: `(H, W)` of the mask.
    """
    total = size[0] * size[1]
    counts = np.diff(edges, prepend=0, append=total)
    if len(edges) and edges[-1] == total:  # the last run reaches the end: no zeros follow
        counts = counts[:-1]
    return RLE(size, _write(counts))


def row_runs(rle: RLE) -> Int64Array:
    """Lengths of the runs when the mask is read row by row, zeros first; of those only the first may be 0.

    Raises like `decode`.
    """
    window, (y0, x0) = decode_crop(rle)
    runs = np.diff(_edges(window, (y0, x0), rle.size), prepend=0, append=rle.size[0] * rle.size[1])
    return runs[:-1] if len(runs) > 1 and runs[-1] == 0 else runs


def decode(rle: RLE) -> BoolArray:
    """The `(H, W)` mask of an RLE.

    Raises:
        StageError: `invalid_value`, for counts that are malformed or do not fill the size.
    """
    counts = _read(rle)
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.ascontiguousarray(pixels.reshape(rle.size[::-1]).T)


def decode_crop(rle: RLE) -> tuple[BoolArray, tuple[int, int]]:
    """The smallest window that holds the foreground, and its offset `(y0, x0)`; the inverse of `encode_crop`.

    Costs as much as the window is large, not the mask. An empty mask gives a `(0, 0)` window at `(0, 0)`.
    Raises like `decode`.
    """
    counts = _read(rle)
    ends = np.cumsum(counts)
    foreground = np.flatnonzero(counts[1::2]) * 2 + 1
    if len(foreground) == 0:
        return np.zeros((0, 0), np.bool_), (0, 0)
    height = rle.size[0]
    x0 = int(ends[foreground[0] - 1] // height)
    x1 = int(-(-ends[foreground[-1]] // height))
    ends_inside: Int64Array = np.clip(ends, x0 * height, x1 * height)
    inside = np.diff(ends_inside, prepend=x0 * height)
    columns = np.repeat(np.arange(len(counts)) % 2 == 1, inside).reshape(x1 - x0, height)
    rows = np.flatnonzero(columns.any(axis=0))
    return np.ascontiguousarray(columns[:, rows[0] : rows[-1] + 1].T), (int(rows[0]), x0)


def area(rle: RLE) -> int:
    """The number of foreground pixels, without decoding. Raises like `decode`."""
    return int(_read(rle)[1::2].sum())


def box_iou(a: Float32Array, b: Float32Array) -> Float32Array:
    """Overlap of each box of `a (N, 4)` with each of `b (M, 4)`, xyxy: `(N, M)` float32, 0 where both are empty."""
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    shared: Float32Array = np.maximum(width, 0) * np.maximum(height, 0)
    union = box_area(a)[:, None] + box_area(b)[None, :] - shared
    iou = np.zeros_like(shared)
    np.divide(shared, union, out=iou, where=union > 0)
    return iou


def box_area(boxes: Float32Array) -> Float32Array:
    """Areas `(N,)` of boxes `(N, 4)` xyxy, in square pixels."""
    areas: Float32Array = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return areas


def _edges(lines: npt.NDArray[Any], offset: tuple[int, int], size: tuple[int, int]) -> Int64Array:
    """The places where a picture changes, read line after line.

    Args:
        lines: `(l, p)` window of its lines; nothing is foreground elsewhere.
        offset: of the window, in lines and in places of a line.
        size: `(L, P)` of the picture.
    """
    (count, places), (first, start), (_, length) = lines.shape, offset, size
    # With an empty place between two lines unless the window spans the whole line: so no run of the window crosses
    # into the next line where the picture has places in between.
    step = places if places == length else places + 1
    flat = np.zeros(1 + count * step + 1, np.bool_)  # and an empty place at either end: every run starts and stops
    flat[1:-1].reshape(count, step)[:, :places] = lines
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    if places == length:
        return edges + first * length
    line, place = np.divmod(edges, step)
    moved: Int64Array = (first + line) * length + (start + place)
    return moved


def _write(counts: Int64Array) -> str:
    """Run lengths -> COCO's ASCII."""
    values = counts.copy()
    values[3:] -= counts[1:-2]
    # Every value in groups of five bits, lowest first. It goes on while the rest is not its own sign.
    columns = []
    alive = np.ones(len(values), np.bool_)
    while alive.any():
        low = values & 31
        values = values >> 5
        more = alive & (values != np.where(low & 16, -1, 0))
        columns.append(np.where(alive, low + 32 * more + 48, 0))
        alive = more
    groups = np.stack(columns, axis=1).astype(np.uint8)
    return str(groups[groups != 0].tobytes(), "ascii")


def _read(rle: RLE) -> Int64Array:
    """COCO's ASCII -> run lengths, checked to be whole, not negative, and to fill the size exactly."""
    counts = _differences(rle)
    total = rle.size[0] * rle.size[1]
    if counts is None or np.abs(counts).max(initial=0) > total:  # so the sums below cannot overflow
        raise _malformed()
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    if counts.min(initial=0) < 0 or counts.sum() != total:
        raise _malformed()
    return counts


def _differences(rle: RLE) -> Int64Array | None:
    """The signed numbers that the text spells; None where it spells none."""
    height, width = rle.size
    if not (height >= 0 and width >= 0 and height * width <= _MAX_PIXELS and rle.counts.isascii()):
        return None
    code = np.frombuffer(rle.counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    if len(code) == 0:
        return np.zeros(0, np.int64)
    last = code < 32  # without the bit that says "more follows"
    if code.min() < 0 or code.max() > 63 or not last[-1]:
        return None
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _MAX_GROUPS:
        return None
    place = np.arange(len(code)) - np.repeat(starts, lengths)
    values: Int64Array = np.add.reduceat((code & 31) << 5 * place, starts)
    values -= ((code[ends] & 16) != 0) * (np.int64(1) << 5 * lengths)  # the highest bit is the sign
    return values


def _malformed() -> StageError:
    return StageError("invalid_value", "a mask's run lengths are malformed or do not fill its size", "mask")
