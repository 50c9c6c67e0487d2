"""From token probabilities to boxes with a class: the label rule and its thresholds, or raw mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.prompt import Caption
from pipeline.stages import Detections, DetectRequest, Float32Array, Int32Array

Index = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Scores:
    """The model's answer to one caption: `QxL` token probabilities and `Qx4` boxes, `cxcywh` as shares of the image."""

    tokens: Float32Array
    boxes: Float32Array


@dataclass(frozen=True, slots=True)
class Criteria:
    """What a box needs to be a detection. Arrays run over the positive classes, then the negative ones.

    Attributes:
        class_ids: `(C,)` int32, of a negative `-1 - class_id`.
        box_thresholds: `(C,)` float32.
        text_threshold: for the mean token probability.
        top_k: raw mode: this many pairs of a box and a class, and no thresholds.
    """

    class_ids: Int32Array
    box_thresholds: Float32Array
    text_threshold: float
    top_k: int | None = None


def criteria(request: DetectRequest, box_threshold: float, text_threshold: float) -> Criteria:
    """The criteria of a request; the thresholds are those of the bundle, for where the request has none."""
    default = box_threshold if request.box_threshold is None else request.box_threshold
    classes = (*request.classes, *request.negatives)
    ids = [one.class_id for one in request.classes] + [-1 - one.class_id for one in request.negatives]
    return Criteria(
        np.array(ids, np.int32),
        np.array([default if one.box_threshold is None else one.box_threshold for one in classes], np.float32),
        text_threshold if request.text_threshold is None else request.text_threshold,
        request.top_k,
    )


def candidates(wanted: Criteria, caption: Caption, scores: Scores, size: tuple[int, int]) -> Detections:
    """What one caption found. Boxes are clipped to the image, of `size` `(height, width)`.

    A query's class is the one of the highest mean probability over its span; the highest probability within that span
    must reach the class's box threshold and the mean the text threshold, and the box must not be empty. A query has a
    class among the positive ones and another among the negative ones: a negative never takes a label away, it only
    removes what `pipeline.selection.drop_negatives` says.

    In raw mode: the best `top_k` pairs of a query and a class by that mean, as `PostProcessCocoGrounding` of
    GroundingDINO's `demo/test_ap_on_coco.py` takes them. (It does not clip; a clipped box covers no less of a truth
    inside the image.)
    """
    index = np.array(caption.class_index)
    means = np.stack([scores.tokens[:, start:end].mean(1) for start, end in caption.spans], 1)
    if wanted.top_k is not None:
        query, place = np.divmod(_best(means.ravel(), wanted.top_k), means.shape[1])
        boxes, mean = _corners(scores.boxes[query], size), means[query, place]
        return Detections(boxes, mean, mean, wanted.class_ids[index[place]], size)

    highest = np.stack([scores.tokens[:, start:end].max(1) for start, end in caption.spans], 1)
    boxes, negative = _corners(scores.boxes, size), wanted.class_ids[index] < 0
    query, place = _labels(means, (~negative, negative))
    classes = index[place]
    found = Detections(boxes[query], highest[query, place], means[query, place], wanted.class_ids[classes], size)
    kept = (found.scores >= wanted.box_thresholds[classes]) & (found.text_scores >= wanted.text_threshold)
    return found.take(kept & (found.boxes[:, 2:] > found.boxes[:, :2]).all(1))


def _labels(means: Float32Array, groups: tuple[npt.NDArray[np.bool_], ...]) -> tuple[Index, Index]:
    """Each query with the place of its highest mean in each group of places: `(N,)` queries and `(N,)` places."""
    places = [np.flatnonzero(group) for group in groups if group.any()]
    query = np.tile(np.arange(len(means)), len(places))
    return query, np.concatenate([own[means[:, own].argmax(1)] for own in places])


def merge(wanted: Criteria, parts: Sequence[Detections], warnings: tuple[str, ...]) -> Detections:
    """What several captions found, in their order; in raw mode the best `top_k` of it, best first."""
    merged = Detections(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.text_scores for part in parts]),
        np.concatenate([part.class_ids for part in parts]),
        parts[0].size,
        passes=sum(part.passes for part in parts),
        warnings=warnings,
    )
    return merged if wanted.top_k is None else merged.take(_best(merged.scores, wanted.top_k))


def _best(scores: Float32Array, count: int) -> Index:
    """Indices of the highest `count` scores, falling; equal ones in the order given."""
    return np.argsort(-scores, kind="stable")[:count]


def _corners(boxes: Float32Array, size: tuple[int, int]) -> Float32Array:
    """`Nx4` `cxcywh` as shares of the image -> `xyxy` in its pixels, clipped to it."""
    height, width = size
    center, extent = boxes[:, :2], boxes[:, 2:] / 2
    corners = np.concatenate((center - extent, center + extent), 1).clip(0, 1)
    return corners * np.array([width, height, width, height], np.float32)
