"""What the tiles of one image found -> one answer, in the image's frame and united across seams.

Two pieces from different tiles are one object if their masks agree where the tiles overlap. Objects that only touch do
not agree: their masks share no pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

from pipeline.errors import StageError
from pipeline.masks import BoolArray, box_iou, decode_crop, encode_crop
from pipeline.selection import SelectionOptions, cap, filter_area, suppress
from pipeline.stages import RLE, Detections, Float32Array, Masks, Region
from pipeline.tiling import MAX_PIECES, Tiling

AGREEMENT = 0.5  # least IoU of two masks where their tiles overlap
_CACHED = 16  # decoded masks, up to 16 MB each

Window = tuple[BoolArray, tuple[int, int]]
"""A part of a mask, and its `(y0, x0)` in the image."""


def limit(kept: Sequence[Detections]) -> tuple[list[Detections], int]:
    """The best `MAX_PIECES` of all that the tiles admitted, tile by tile, and how many were left out."""
    scores = np.concatenate([found.scores for found in kept])
    best = np.zeros(len(scores), np.bool_)
    best[np.argsort(-scores, kind="stable")[:MAX_PIECES]] = True
    parts = np.split(best, np.cumsum([len(found) for found in kept])[:-1])
    return [found.take(part) for found, part in zip(kept, parts, strict=True)], int((~best).sum())


def merge(
    tiling: Tiling,
    kept: Sequence[Detections],
    masks: Sequence[Masks] | None,
    options: SelectionOptions,
    deadline: float | None = None,
) -> tuple[Detections, Masks | None, dict[str, int]]:
    """One answer for the image.

    Args:
        kept: what each tile contributes, in its own frame, in the order of `tiling.regions`.
        masks: of `kept`; None where none were asked for: then boxes stand for masks.
        options: NMS, area and cap, which are applied to the whole image, in this order.
        deadline: Unix time in seconds, or None.

    Returns:
        The detections kept and their masks, in the image's frame, best score first, as `select` returns them; and how
        many each step removed.

    Raises:
        StageError: `deadline_exceeded`.
    """
    pieces = _Pieces(tiling, kept, masks, deadline)
    united = [pieces.unite(group) for group in pieces.groups()]
    boxes = np.array([one.box for one in united], np.float32).reshape(-1, 4)
    found = replace(pieces.found.take(np.array([one.row for one in united], np.intp)), boxes=boxes)
    rows, removed = _select(found, options)
    if masks is None:
        return found.take(rows), None, removed
    chosen = [united[row] for row in rows]
    answer = Masks(
        tuple(one.rle for one in chosen),
        np.array([one.mask_score for one in chosen], np.float32),
        np.array([one.area for one in chosen], np.int32),
    )
    return found.take(rows), answer, removed


@dataclass(frozen=True, slots=True)
class _United:
    """One object. `row`: of the piece that gives class and scores."""

    row: int
    box: Float32Array
    rle: RLE
    mask_score: float
    area: int


_NO_MASK = RLE((0, 0), "")


class _Pieces:
    """What all tiles contribute, in the image's frame; a row is an index into it."""

    def __init__(
        self, tiling: Tiling, kept: Sequence[Detections], masks: Sequence[Masks] | None, deadline: float | None
    ) -> None:
        self.tiling = tiling
        self.deadline = deadline
        self.tile = np.repeat(np.arange(len(kept)), [len(found) for found in kept])
        self.found = _moved(tiling, kept)
        depth = tiling.depth(self.found.boxes)
        self.whole = depth[np.arange(len(self.tile)), self.tile] > tiling.margin
        self.masked = masks is not None
        self.rles = [rle for of_tile in masks or () for rle in of_tile.rles]
        self.mask_scores = np.concatenate([[], *(of_tile.mask_scores for of_tile in masks or ())])
        self.window = lru_cache(maxsize=_CACHED)(self._window)

    def _window(self, row: int) -> Window:
        x, y = self.tiling.regions[self.tile[row]][:2]
        mask, (y0, x0) = decode_crop(self.rles[row])
        return mask, (y + y0, x + x0)

    def groups(self) -> list[list[int]]:
        """Rows that are one object, each list and all of them in order."""
        agreeing = sorted(self._agreeing(), key=lambda pair: (-pair[0], pair[1:]))
        classes = self.found.class_ids
        group = np.arange(len(self.tile))
        answered: set[tuple[int, int]] = set()
        for _, a, b in agreeing:
            # One answer from each tile: a mask over two objects must not make one of them.
            answers = {(a, int(self.tile[b])), (b, int(self.tile[a]))}
            if classes[a] == classes[b] and not answers & answered:
                answered |= answers
                group[group == group[b]] = group[a]
        for _, a, b in agreeing:
            # Two tiles name one object differently. Only where neither gives it both names is that the seam's doing.
            if classes[a] != classes[b] and not (
                self.tile[b] in self.tile[group == group[a]] or self.tile[a] in self.tile[group == group[b]]
            ):
                group[group == group[b]] = group[a]
        return [np.flatnonzero(group == number).tolist() for number in dict.fromkeys(group.tolist())]

    def _agreeing(self) -> Iterator[tuple[float, int, int]]:
        """Pairs of rows from two tiles that agree in the tiles' overlap, and how much."""
        regions = self.tiling.regions
        rows = [np.flatnonzero(self.tile == number) for number in range(len(regions))]
        for i, j in combinations([number for number in range(len(regions)) if len(rows[number])], 2):
            shared = _shared(regions[i], regions[j])
            if shared is None:
                continue
            first, second = (_clipped(self.found.boxes[some], shared) for some in (rows[i], rows[j]))
            overlap = box_iou(first, second)
            for k, m in np.argwhere(overlap > 0):
                a, b = int(rows[i][k]), int(rows[j][m])
                agreement = self._agreement(a, b, shared) if self.masked else float(overlap[k, m])
                if agreement >= AGREEMENT:
                    yield agreement, a, b

    def _agreement(self, a: int, b: int, shared: Region) -> float:
        """IoU of two masks within a region."""
        if self.deadline is not None and time.time() >= self.deadline:
            raise StageError("deadline_exceeded", "the request's time was over before its tiles were merged")
        first, second = _within(self.window(a), shared), _within(self.window(b), shared)
        common = _within(first, _extent(second))[0] & _within(second, _extent(first))[0]
        either = np.count_nonzero(first[0]) + np.count_nonzero(second[0]) - np.count_nonzero(common)
        return np.count_nonzero(common) / either if either else 0.0

    def unite(self, rows: list[int]) -> _United:
        """A tile that sees the object whole has the say; else it is what all tiles see of it."""
        whole = [row for row in rows if self.whole[row]]
        best = max(whole or rows, key=lambda row: self.found.scores[row])
        boxes = self.found.boxes
        if whole or len(rows) == 1:
            rows = [best]
            box = boxes[best]
        else:
            box = np.concatenate((boxes[rows, :2].min(axis=0), boxes[rows, 2:].max(axis=0)))
        if not self.masked:
            return _United(best, box, _NO_MASK, 0.0, 0)
        windows = [self.window(row) for row in rows]
        areas = [np.count_nonzero(mask) for mask, _ in windows]
        mask, offset = windows[0] if len(windows) == 1 else _union(windows)
        if len(windows) > 1:
            (height, width), (y0, x0) = mask.shape, offset
            box = np.array([x0, y0, x0 + width, y0 + height], np.float32)
        return _United(
            best,
            box,
            encode_crop(mask, offset, self.tiling.image_size),
            # The segmenter's expected IoU of each piece counts by the piece's size.
            float(np.average(self.mask_scores[rows], weights=areas if any(areas) else None)),
            int(np.count_nonzero(mask)),
        )


def _moved(tiling: Tiling, kept: Sequence[Detections]) -> Detections:
    """What all tiles contribute, in the image's frame; passes are summed, each warning is told once."""
    moved = [
        found.boxes + np.array(region[:2] * 2, np.float32) for found, region in zip(kept, tiling.regions, strict=True)
    ]
    return Detections(
        np.concatenate(moved),
        np.concatenate([found.scores for found in kept]),
        np.concatenate([found.text_scores for found in kept]),
        np.concatenate([found.class_ids for found in kept]),
        tiling.image_size,
        sum(found.passes for found in kept),
        tuple(dict.fromkeys(warning for found in kept for warning in found.warnings)),
    )


def _select(found: Detections, options: SelectionOptions) -> tuple[npt.NDArray[np.intp], dict[str, int]]:
    """NMS, area and cap: the rows kept, best first, and how many each step removed."""
    # The steps do not read text scores, so those carry the row number: exact in float32 for any number of rows here.
    numbered = replace(found, text_scores=np.arange(len(found), dtype=np.float32))
    apart = suppress(numbered, options.nms, options.nms_threshold)
    sized = filter_area(apart, options.min_area, options.max_area)
    best = cap(sized, options.max_detections)
    removed = {"nms": len(found) - len(apart), "area": len(apart) - len(sized), "cap": len(sized) - len(best)}
    return best.text_scores.astype(np.intp), removed


def _shared(a: Region, b: Region) -> Region | None:
    """Where two tiles overlap."""
    x0, y0, x1, y1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _clipped(boxes: Float32Array, region: Region) -> Float32Array:
    """Boxes cut to a region; empty where they lie outside."""
    x0, y0, x1, y1 = region
    return boxes.clip(np.array([x0, y0, x0, y0], np.float32), np.array([x1, y1, x1, y1], np.float32))


def _extent(window: Window) -> Region:
    mask, (y0, x0) = window
    return x0, y0, x0 + mask.shape[1], y0 + mask.shape[0]


def _within(window: Window, region: Region) -> Window:
    """The part of a window that lies in a region, as a view; possibly empty."""
    mask, (y0, x0) = window
    top, left = max(y0, region[1]), max(x0, region[0])
    bottom, right = max(top, min(y0 + mask.shape[0], region[3])), max(left, min(x0 + mask.shape[1], region[2]))
    return mask[top - y0 : bottom - y0, left - x0 : right - x0], (top, left)


def _union(windows: Sequence[Window]) -> Window:
    """The smallest window that holds all of `windows`."""
    extents = np.array([_extent(window) for window in windows if window[0].size])
    x0, y0 = extents[:, :2].min(axis=0).tolist()
    x1, y1 = extents[:, 2:].max(axis=0).tolist()
    mask = np.zeros((y1 - y0, x1 - x0), np.bool_)
    for part, (top, left) in windows:
        mask[top - y0 : top - y0 + part.shape[0], left - x0 : left - x0 + part.shape[1]] |= part
    return mask, (y0, x0)
