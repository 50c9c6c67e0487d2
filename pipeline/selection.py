"""From candidate boxes to the answer: negatives -> NMS -> area -> cap, in that order.

Labels and thresholds come before, in the detector. Each step is a pure function of `Detections` that keeps the order
of what it keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline.errors import StageError
from pipeline.masks import box_area, box_iou
from pipeline.scalars import fraction, integer
from pipeline.stages import Detections

NmsMode = Literal["class", "agnostic", "off"]

# Of an overlap matrix at a time, so that memory stays bounded for any number of boxes.
_BLOCK, _CELLS = 256, 2**22  # rows, cells


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """What to keep. Numbers may be NumPy's; they become Python's.

    Attributes:
        nms: suppress overlapping boxes of one class, of any class, or none.
        nms_threshold: of two boxes whose IoU is above it, the one with the lower score goes.
        negative_iou: a negative removes boxes of a lower score whose IoU with it is at least this.
        min_area: smallest box, as a part of the image's area.
        max_area: largest box, likewise.
        max_detections: how many to keep, best scores first.

    Raises:
        StageError: `invalid_value`, naming the field, for another type or a number out of range.
    """

    nms: NmsMode = "class"
    nms_threshold: float = 0.7
    negative_iou: float = 0.5
    min_area: float = 0.0
    max_area: float = 1.0
    max_detections: int = 100

    def __post_init__(self) -> None:
        if self.nms not in get_args(NmsMode):
            raise StageError("invalid_value", "must be 'class', 'agnostic' or 'off'", "nms")
        for name in ("nms_threshold", "negative_iou", "min_area", "max_area"):
            object.__setattr__(self, name, fraction(getattr(self, name), name))
        if self.min_area > self.max_area:
            raise StageError("invalid_value", "must not exceed max_area", "min_area")
        object.__setattr__(self, "max_detections", integer(self.max_detections, "max_detections"))
        if self.max_detections < 1:
            raise StageError("invalid_value", "must be at least 1", "max_detections")


_DEFAULT = SelectionOptions()


def select(detections: Detections, options: SelectionOptions = _DEFAULT) -> tuple[Detections, dict[str, int]]:
    """Apply every step.

    Returns:
        The detections kept, best score first (equal scores in the order given), without negatives; and how many
        detections each step removed: `{"negatives", "nms", "area", "cap"}`. Negatives themselves are not counted.
    """
    removed = {}
    positives = int((detections.class_ids >= 0).sum())
    kept = drop_negatives(detections, options.negative_iou)
    removed["negatives"] = positives - len(kept)
    before, kept = len(kept), suppress(kept, options.nms, options.nms_threshold)
    removed["nms"] = before - len(kept)
    before, kept = len(kept), filter_area(kept, options.min_area, options.max_area)
    removed["area"] = before - len(kept)
    before, kept = len(kept), cap(kept, options.max_detections)
    removed["cap"] = before - len(kept)
    return kept, removed


def drop_negatives(detections: Detections, negative_iou: float) -> Detections:
    """Drop the negatives, and each detection that a negative of a higher score overlaps by `negative_iou` or more."""
    positive = np.flatnonzero(detections.class_ids >= 0)
    negative = np.flatnonzero(detections.class_ids < 0)
    keep = np.ones(len(positive), np.bool_)
    block = _block(len(negative))
    for start in range(0, len(positive) if len(negative) else 0, block):
        rows = positive[start : start + block]
        close = box_iou(detections.boxes[rows], detections.boxes[negative]) >= negative_iou
        higher = detections.scores[negative][None, :] > detections.scores[rows][:, None]
        keep[start : start + block] = ~(close & higher).any(axis=1)
    return detections.take(positive[keep])


def suppress(detections: Detections, mode: NmsMode, threshold: float) -> Detections:
    """Greedy non-maximum suppression, as torchvision's `nms` (`agnostic`) and `batched_nms` (`class`) do it.

    Best score first (equal scores in the order given), each kept box removes the later ones whose IoU with it is
    above the threshold: of any class, or of its own.
    """
    if mode == "off" or len(detections) < 2:
        return detections
    order = _by_score(detections)
    if mode == "agnostic":
        kept = _greedy(detections, order, threshold)
    else:
        classes = detections.class_ids[order]
        groups = (order[classes == class_id] for class_id in np.unique(classes))
        kept = np.concatenate([_greedy(detections, group, threshold) for group in groups])
    return detections.take(np.sort(kept))


def filter_area(detections: Detections, min_area: float, max_area: float) -> Detections:
    """Keep boxes whose area, as a part of the image's, is from `min_area` to `max_area`, both included."""
    height, width = detections.size
    # A box that spans the image must never be above 1 by rounding.
    share = np.minimum(box_area(detections.boxes.astype(np.float64)) / max(1, height * width), 1.0)
    return detections.take((share >= min_area) & (share <= max_area))


def cap(detections: Detections, max_detections: int) -> Detections:
    """The best `max_detections`, sorted by score; equal scores stay in the order given."""
    return detections.take(_by_score(detections)[:max_detections])


def _by_score(detections: Detections) -> npt.NDArray[np.intp]:
    return np.argsort(-detections.scores, kind="stable")


def _block(columns: int) -> int:
    """How many rows of that many columns are compared at a time."""
    return max(1, min(_BLOCK, _CELLS // max(1, columns)))


def _greedy(detections: Detections, order: npt.NDArray[np.intp], threshold: float) -> npt.NDArray[np.intp]:
    """The indices kept of `order`, which is sorted by score."""
    boxes = detections.boxes[order]
    alive = np.ones(len(order), np.bool_)
    block = _block(len(order))
    for start in range(0, len(order), block):
        rows = start + np.flatnonzero(alive[start : start + block])
        far = box_iou(boxes[rows], boxes[start:]) <= threshold
        for row, index in enumerate(rows):
            if alive[index]:
                alive[index + 1 :] &= far[row, index + 1 - start :]
    return order[alive]
