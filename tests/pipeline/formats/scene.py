"""A drawn answer whose masks are known: holes, parts, corners that touch, all four borders; labels beyond ASCII."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.masks import encode
from pipeline.result import Result

HEIGHT, WIDTH = 40, 57
CLASSES = ("red circle", "stern", '猫 "x" & <é>')

Array = np.ndarray[Any, Any]


def masks() -> Array:
    """`(4, HEIGHT, WIDTH)` bool."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    drawn = np.zeros((4, HEIGHT, WIDTH), np.bool_)
    drawn[0] = np.abs(np.hypot(y - 15, x - 14) - 8) < 4  # a ring,
    drawn[0] |= np.hypot(y - 15, x - 14) < 2  # a dot in it,
    drawn[0, 30:33, 20:50] = True  # and a bar
    drawn[1, 25:, 40:] = (x + y)[25:, 40:] % 5 > 1  # stripes to the lower right corner
    drawn[2, ::39, :] = drawn[2, :, ::56] = True  # a frame of one pixel
    drawn[3, 3:9, 30:36] = True
    drawn[3, 4, 31] = drawn[3, 5, 32] = drawn[3, 8, 33] = False  # holes that touch, a notch
    drawn[3, 9, 36] = drawn[3, 2, 36] = True  # pixels that touch at a corner
    return drawn


def result(**changes: Any) -> Result:
    """The answer with these masks; the boxes are a detector's: not the masks' own."""
    drawn = masks()
    boxes = [[1.5, 2.25, 51, 34.5], [39.1, 24.7, 57, 40], [0, 0, 57, 40], [29.5, 2, 37.25, 10]]
    values: dict[str, Any] = {
        "image_size": (HEIGHT, WIDTH),
        "labels": (CLASSES[0], CLASSES[2], CLASSES[2], CLASSES[1]),
        "class_ids": np.array([0, 2, 2, 1], np.int32),
        "scores": np.array([0.9, 0.83, 0.4, 0.3], np.float32),
        "text_scores": np.array([0.8, 0.7, 0.3, 0.25], np.float32),
        "boxes": np.array(boxes, np.float32),
        "rles": tuple(encode(mask) for mask in drawn),
        "mask_scores": np.array([0.9, 0.8, 0.7, 0.6], np.float32),
        "areas": drawn.sum(axis=(1, 2)).astype(np.int32),
        "model": "tiny+tiny",
    }
    return Result(**{**values, **changes})


def boxes_only() -> Result:
    return result(rles=None, mask_scores=None, areas=None)


def nothing_found() -> Result:
    none, ids = np.zeros(0, np.float32), np.zeros(0, np.int32)
    return Result((HEIGHT, WIDTH), (), ids, none, none, np.zeros((0, 4), np.float32), (), none, ids, "tiny+tiny")


def one_mask_empty() -> Result:
    """The second mask has no pixel."""
    drawn = masks()
    drawn[1] = False
    return result(rles=tuple(encode(mask) for mask in drawn), areas=drawn.sum(axis=(1, 2)).astype(np.int32))
