"""What the tiles of one image found -> one answer, in the image's frame and united across seams.

Of an object that a tile sees whole, the tile that sees it deepest has the say. One that is cut wherever it is seen is
united from its pieces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.masks import encode_crop
from pipeline.pieces import Pieces
from pipeline.selection import SelectionOptions, cap, filter_area, suppress
from pipeline.stages import RLE, Detections, Float32Array, Masks
from pipeline.tiling import MAX_PIECES, Admitted, Tiling
from pipeline.windows import extent, union


def limit(admitted: Sequence[Admitted]) -> list[Admitted]:
    """The best `MAX_PIECES` of all that the tiles admitted, tile by tile; what is over counts as `cap`."""
    scores = np.concatenate([one.kept.scores for one in admitted])
    best = np.zeros(len(scores), np.bool_)
    best[np.argsort(-scores, kind="stable")[:MAX_PIECES]] = True
    parts = np.split(best, np.cumsum([len(one.kept) for one in admitted])[:-1])
    return [
        replace(one, kept=one.kept.take(part), removed=one.removed | {"cap": one.removed["cap"] + int((~part).sum())})
        for one, part in zip(admitted, parts, strict=True)
    ]


def merge(
    tiling: Tiling,
    admitted: Sequence[Admitted],
    masks: Sequence[Masks] | None,
    options: SelectionOptions,
    deadline: float | None = None,
) -> tuple[Detections, Masks | None, dict[str, int]]:
    """One answer for the image.

    Args:
        admitted: what each tile contributes, in the order of `tiling.regions`.
        masks: of what each tile kept; None where none were asked for: then boxes stand for masks.
        options: NMS, area and cap, which are applied to the whole image, in this order.
        deadline: Unix time in seconds, or None.

    Returns:
        The detections kept and their masks, in the image's frame, best score first, as `select` returns them; and how
        many each step removed, in the tiles and here.

    Raises:
        StageError: `deadline_exceeded`.
    """
    pieces = Pieces(tiling, admitted, masks, deadline)
    united = [_unite(pieces, rows) for rows in pieces.objects()]
    boxes = np.array([one.box for one in united], np.float32).reshape(-1, 4)
    found = replace(pieces.found.take(np.array([one.row for one in united], np.intp)), boxes=boxes)
    rows, here = _select(found, options)
    removed = Counter(negatives=0, nms=0, area=0, cap=0)
    for step in (*(one.removed for one in admitted), here):
        removed.update(step)
    if masks is None:
        return found.take(rows), None, dict(removed)
    chosen = [united[row] for row in rows]
    answer = Masks(
        tuple(one.rle for one in chosen),
        np.array([one.mask_score for one in chosen], np.float32),
        np.array([one.area for one in chosen], np.int32),
    )
    return found.take(rows), answer, dict(removed)


@dataclass(frozen=True, slots=True)
class _United:
    """One object. `row`: of the piece that gives class and scores."""

    row: int
    box: Float32Array
    rle: RLE
    mask_score: float
    area: int


_NO_MASK = RLE((0, 0), "")


def _unite(pieces: Pieces, rows: list[int]) -> _United:
    """One object of its pieces; class and scores are those of the surest."""
    best = max(rows, key=lambda row: pieces.found.scores[row])
    boxes = pieces.found.boxes[rows]
    box = boxes[0] if len(rows) == 1 else np.concatenate((boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)))
    if not pieces.masked:
        return _United(best, box, _NO_MASK, 0.0, 0)
    windows = [pieces.window(row) for row in rows]
    areas = [np.count_nonzero(mask) for mask, _ in windows]
    window = windows[0]
    if len(rows) > 1:
        window = union(windows)
        box = np.array(extent(window), np.float32)
    return _United(
        best,
        box,
        encode_crop(*window, pieces.tiling.image_size),
        # The segmenter's expected IoU of each piece counts by the piece's size.
        float(np.average(pieces.mask_scores[rows], weights=areas if any(areas) else None)),
        int(np.count_nonzero(window[0])),
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
