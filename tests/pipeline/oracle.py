"""Stages that know the truth: a detector and a segmenter of drawn masks, whole or cut by a region, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pipeline import TextToMask
from pipeline.masks import encode
from pipeline.stages import (
    DecodeOptions,
    Detections,
    DetectRequest,
    Embedding,
    Float32Array,
    MaskPrompts,
    Masks,
    Region,
)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Thing:
    """A drawn object: an `(H, W)` mask, its class and its score."""

    mask: Mask
    class_id: int
    score: float


class Oracle:
    """Finds the visible part of every thing in a region, with a tight box, and answers such a box with its mask.

    As both a detector, an image encoder and a mask decoder it fits `TextToMask`. `seen` notes regions by stage.
    """

    def __init__(self, things: Sequence[Thing]) -> None:
        self.things = sorted(things, key=lambda thing: -thing.score)
        self.arch = SimpleNamespace(short_side=100)
        self.seen: dict[str, list[Region | None]] = {"detect": [], "encode": [], "decode": []}

    def model(self) -> TextToMask:
        stage = cast(Any, self)
        return TextToMask(stage, stage, stage, "oracle")

    def _parts(self, region: Region | None) -> list[tuple[Thing, Mask, Float32Array]]:
        """Each thing that is in the region: the part there, and its box, in the region's frame."""
        parts = []
        for thing in self.things:
            x0, y0, x1, y1 = region or (0, 0, thing.mask.shape[1], thing.mask.shape[0])
            part = thing.mask[y0:y1, x0:x1]
            if part.any():
                parts.append((thing, part, tight(part)))
        return parts

    def detect(self, image: Any, request: DetectRequest, deadline: float | None = None) -> Detections:
        self.seen["detect"].append(request.region)
        height, width = image.shape[:2]
        x0, y0, x1, y1 = request.region or (0, 0, width, height)
        wanted = {one.class_id for one in request.classes}
        wanted |= {-1 - one.class_id for one in request.negatives}
        found = [(thing, box) for thing, _, box in self._parts(request.region) if thing.class_id in wanted]
        scores = np.array([thing.score for thing, _ in found], np.float32)
        return Detections(
            np.array([box for _, box in found], np.float32).reshape(-1, 4),
            scores,
            scores * np.float32(0.5),
            np.array([thing.class_id for thing, _ in found], np.int32),
            (y1 - y0, x1 - x0),
            passes=2,
            warnings=("seen",),
        )

    def encode(self, image: Any, key: str | None = None, region: Region | None = None) -> Embedding:
        self.seen["encode"].append(region)
        x0, y0, x1, y1 = region or (0, 0, image.shape[1], image.shape[0])
        return Embedding(np.zeros((1, 1, 1), np.float32), (1, 1), (y1 - y0, x1 - x0), region)

    def decode(self, embedding: Embedding, prompts: MaskPrompts, options: DecodeOptions) -> Masks:
        self.seen["decode"].append(embedding.region)
        assert prompts.boxes is not None
        left = self._parts(embedding.region)
        masks = []
        for box in prompts.boxes:
            # Things with equal boxes come in the order of their scores, as the prompts do.
            index = next(i for i, (_, _, own) in enumerate(left) if (own == box).all())
            masks.append(left.pop(index)[1])
        assert all(mask.shape == embedding.image_size for mask in masks)
        areas = np.array([mask.sum() for mask in masks], np.int32)
        return Masks(tuple(encode(mask) for mask in masks), np.full(len(masks), 0.9, np.float32), areas)


def tight(mask: Mask) -> Float32Array:
    """The box around a mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
