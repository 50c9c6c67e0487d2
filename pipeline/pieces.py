"""Which detections of several tiles are one object.

Two from different tiles are, if their masks agree where the tiles overlap. Objects that only touch do not agree: their
masks share no pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

from pipeline.errors import StageError
from pipeline.masks import BoolArray, box_iou, decode_crop
from pipeline.stages import Detections, Masks, Region
from pipeline.tiling import Admitted, Tiling
from pipeline.windows import Window, clipped, common, shared, within

AGREEMENT = 0.5  # least IoU of two masks where their tiles overlap
INSIDE = 0.8  # share of a part that lies in the object
ALIKE = 0.7  # IoU of boxes above which NMS takes two for one, by default
_CACHED = 16  # decoded masks, up to 16 MB each


class Pieces:
    """What all tiles contribute, in the image's frame; a row is an index into it.

    Args:
        tiling, admitted, masks, deadline: as `pipeline.seams.merge` takes them. Without masks, boxes stand for them.
    """

    def __init__(
        self, tiling: Tiling, admitted: Sequence[Admitted], masks: Sequence[Masks] | None, deadline: float | None
    ) -> None:
        self.tiling = tiling
        self.deadline = deadline
        self.tile = np.repeat(np.arange(len(admitted)), [len(one.kept) for one in admitted])
        self.found = _moved(tiling, [one.kept for one in admitted])
        self.left = [one.left for one in admitted]
        self.depth = tiling.depth(self.found.boxes)[np.arange(len(self.tile)), self.tile]
        self.cut = self.depth <= tiling.margin
        self.masked = masks is not None
        self.rles = [rle for of_tile in masks or () for rle in of_tile.rles]
        self.mask_scores = np.concatenate([[], *(of_tile.mask_scores for of_tile in masks or ())])
        self.window = lru_cache(maxsize=_CACHED)(self._window)

    def _window(self, row: int) -> Window:
        if not self.masked:
            x0, y0, x1, y1 = self.found.boxes[row].round().astype(int).tolist()
            return np.ones((y1 - y0, x1 - x0), np.bool_), (y0, x0)
        left, top = self.tiling.regions[self.tile[row]][:2]
        mask, (y0, x0) = decode_crop(self.rles[row])
        return mask, (top + y0, left + x0)

    def objects(self) -> list[list[int]]:
        """The rows of each object, in order: one, or the cut pieces of an object that no tile sees whole."""
        alive = np.ones(len(self.tile), np.bool_)
        pairs = []
        for a, b, both, alike in self._overlapping():
            agreement = self._agreement(a, b, both, alike)
            if agreement >= AGREEMENT:
                pairs.append((agreement, a, b))
            elif (part := self._part(a, b)) is not None:
                alive[part] = False
        pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
        self._deepest([(a, b) for _, a, b in pairs if not self.cut[a] or not self.cut[b]], alive)
        group = self._joined([(a, b) for _, a, b in pairs if self.cut[a] and self.cut[b] and alive[a] and alive[b]])
        return [np.flatnonzero(group == number).tolist() for number in np.unique(group[alive])]

    def _deepest(self, pairs: Sequence[tuple[int, int]], alive: BoolArray) -> None:
        """The tile that sees an object deepest has the say on it: in `alive` the others' rows are struck out."""
        rank = np.argsort(np.argsort(-self.depth, kind="stable"))
        for pair in sorted(pairs, key=lambda pair: min(rank[list(pair)])):
            winner, loser = sorted(pair, key=lambda row: rank[row])
            if alive[winner]:
                alive[loser] = False

    def _joined(self, pairs: Sequence[tuple[int, int]]) -> npt.NDArray[np.intp]:
        """A number for each row, equal for the pieces of one object. `pairs` agree, the best first."""
        classes, tile = self.found.class_ids, self.tile
        group = np.arange(len(tile))
        answered: set[tuple[int, int]] = set()
        for a, b in pairs:
            # One answer from each tile: a mask over two objects must not make one of them.
            answers = {(a, int(tile[b])), (b, int(tile[a]))}
            if classes[a] == classes[b] and not answers & answered:
                answered |= answers
                group[group == group[b]] = group[a]
        for a, b in pairs:
            # Two tiles name one object differently. Only where neither gives it both names is that the seam's doing.
            known = tile[b] in tile[group == group[a]] or tile[a] in tile[group == group[b]]
            if classes[a] != classes[b] and not known:
                group[group == group[b]] = group[a]
        return group

    def _overlapping(self) -> Iterator[tuple[int, int, Region, bool]]:
        """Pairs of rows from two tiles whose boxes overlap where the tiles do; that region; are they alike there?"""
        regions = self.tiling.regions
        rows = [np.flatnonzero(self.tile == number) for number in range(len(regions))]
        for i, j in combinations([number for number in range(len(regions)) if len(rows[number])], 2):
            both = shared(regions[i], regions[j])
            if both is None:
                continue
            first, second = (clipped(self.found.boxes[some], both) for some in (rows[i], rows[j]))
            overlap = box_iou(first, second)
            for k, m in np.argwhere(overlap > 0):
                yield int(rows[i][k]), int(rows[j][m]), both, bool(overlap[k, m] >= ALIKE)

    def _agreement(self, a: int, b: int, both: Region, alike: bool) -> float:
        """0 to 1: how far two masks of tiles that share the region `both` are one; `alike`: their boxes are, there."""
        if self.deadline is not None and time.time() >= self.deadline:
            raise StageError("deadline_exceeded", "the request's time was over before its tiles were merged")
        windows = self.window(a), self.window(b)
        overlapping = common(*windows)
        if not overlapping:
            return 0.0
        areas = [np.count_nonzero(mask) for mask, _ in windows]
        seen = [np.count_nonzero(within(window, both)) for window in windows]
        if self.cut[a] and self.cut[b]:  # both tiles see a part: they can be held against each other where both look
            agreement = overlapping / (sum(seen) - overlapping)
        elif self.cut[a] or self.cut[b]:  # what mostly lies in the whole object is a part of it
            agreement = overlapping / areas[0 if self.cut[a] else 1]
        else:
            agreement = overlapping / (sum(areas) - overlapping)
        if alike and self.found.class_ids[a] == self.found.class_ids[b]:
            # NMS would take such boxes for one object. If one mask lies in the other, it only missed some of it.
            agreement = max(agreement, overlapping / min(seen))
        return float(agreement)

    def _part(self, a: int, b: int) -> int | None:
        """Which of two rows of one class is a mere part of the other, if one is.

        It lies in the other's mask, and the other's tile, which sees its place uncut, says nothing of it by itself.
        """
        areas = [np.count_nonzero(self.window(row)[0]) for row in (a, b)]
        small, large = (a, b) if areas[0] < areas[1] else (b, a)
        if self.found.class_ids[a] != self.found.class_ids[b] or self.cut[small]:
            return None
        if common(self.window(a), self.window(b)) < INSIDE * min(areas):
            return None
        tile = self.tile[large]
        box = self.found.boxes[small, None]
        if self.tiling.depth(box)[0, tile] <= self.tiling.margin:
            return None
        left = self.left[tile] + np.array(self.tiling.regions[tile][:2] * 2, np.float32)
        said = np.concatenate((left, self.found.boxes[self.tile == tile]))
        return None if (box_iou(box, said) >= AGREEMENT).any() else small


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
