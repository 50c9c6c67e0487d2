"""Whether an arm's answers are those of the official code. Nothing is printed of a comparison where they are not."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.masks import decode
from pipeline.result import Result

BOX_PX = 0.05
SCORE = 1e-3
MASK_PIXELS, MASK_SHARE = 2, 1e-3
NEAR = 0.01  # of all detections, those near a threshold that only one side has, at most


class AnswersDifferError(Exception):
    """An arm computes something else."""


def compare(
    arm: str, official: list[dict[str, Any]], found: list[dict[str, Any]], thresholds: tuple[float, float]
) -> int:
    """Detections near a threshold that one side lacks, over all images. Raises AnswersDifferError."""
    near, total = 0, 0
    for number, (left, right) in enumerate(
        zip(map(Result.from_json, official), map(Result.from_json, found), strict=True)
    ):
        total += len(left)
        near += _image(f"arm {arm}, image {number}", left, right, thresholds)
    if near > NEAR * total:
        raise AnswersDifferError(f"arm {arm}: {near} of {total} detections near a threshold are on one side only")
    return near


def _image(where: str, left: Result, right: Result, thresholds: tuple[float, float]) -> int:
    free = list(range(len(right)))
    alone = []
    for i in range(len(left)):
        pair = next((j for j in free if _same_box(left, i, right, j)), None)
        if pair is None:
            alone.append((left, i))
            continue
        free.remove(pair)
        _check_masks(where, left, i, right, pair)
    alone += [(right, j) for j in free]
    for side, index in alone:
        scores = (side.scores[index], side.text_scores[index])
        if all(abs(score - limit) > SCORE for score, limit in zip(scores, thresholds, strict=True)):
            raise AnswersDifferError(
                f"{where}: {side.labels[index]} at {side.boxes[index]}, {scores}, is on one side only"
            )
    return len(alone)


def _same_box(left: Result, i: int, right: Result, j: int) -> bool:
    return (
        left.labels[i] == right.labels[j]
        and bool(np.abs(left.boxes[i] - right.boxes[j]).max() <= BOX_PX)
        and abs(left.scores[i] - right.scores[j]) <= SCORE
        and abs(left.text_scores[i] - right.text_scores[j]) <= SCORE
    )


def _check_masks(where: str, left: Result, i: int, right: Result, j: int) -> None:
    if left.rles is None or right.rles is None:
        raise AnswersDifferError(f"{where}: no masks")
    one, other = decode(left.rles[i]), decode(right.rles[j])
    pixels = int((one != other).sum()) if one.shape == other.shape else one.size
    if pixels > max(MASK_PIXELS, MASK_SHARE * one.sum()):
        raise AnswersDifferError(f"{where}: the masks of {left.labels[i]} differ in {pixels} pixels")
