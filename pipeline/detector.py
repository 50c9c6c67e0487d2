"""GroundingDINO: an image and classes in, labelled boxes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pipeline.bundle import Bundle, load_weights
from pipeline.errors import StageError
from pipeline.image import crop, decode
from pipeline.models import groundingdino, groundingdino_build
from pipeline.models.architectures import DetectorArchitecture, detector_architecture
from pipeline.prompt import Caption, Tokenizer
from pipeline.stages import Detections, DetectRequest, Float32Array, ImageSource, TextClass

# `groundingdino.util.inference.load_image`
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
_MAX_FORWARD_PIXELS = 16 * 800 * 1344  # rows of one item (its captions) beyond this go through the model in turns


@dataclass(frozen=True, slots=True)
class DetectorItem:
    """One request, ready for the model.

    Attributes:
        pixels: `3xHxW` float32, resized and normalised, not yet padded.
        padded: `(height, width)` of the model input, a function of the image alone.
        size: `(height, width)` of the image or region.
        classes: positives, then negatives.
        captions: of `classes`.
        box_thresholds: `(len(classes),)` float32.
    """

    pixels: Float32Array
    padded: tuple[int, int]
    size: tuple[int, int]
    classes: tuple[TextClass, ...]
    negatives_from: int
    captions: tuple[Caption, ...]
    box_thresholds: Float32Array
    text_threshold: float
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """The model's answer to one caption: `QxL` token probabilities and `Qx4` boxes, `cxcywh` as shares of the image."""

    tokens: Float32Array
    boxes: Float32Array


class Detector:
    """Finds the boxes that classes name. `prepare` and `finish` are thread-safe; one thread at a time in `forward`.

    Args:
        model: an official `GroundingDINO`, as `pipeline.models.groundingdino_build.build` makes it.
        arch: its hyper-parameters.
        bundle: vocabulary, token budget and default thresholds.
        device: where the model runs.
    """

    def __init__(self, model: Any, arch: DetectorArchitecture, bundle: Bundle, device: str = "cpu") -> None:
        if bundle.vocabulary is None:
            raise ValueError("a detector needs a vocabulary")
        self.model = model.to(device).eval()
        self.arch = arch
        self.bundle = bundle
        self.device = device
        self.tokenizer = Tokenizer(bundle.vocabulary, bundle.max_tokens)
        self._separators = frozenset({self.tokenizer.cls_id, self.tokenizer.sep_id, self.tokenizer.dot_id})

    @classmethod
    def from_bundle(cls, bundle: Bundle, *, device: str = "cpu", threads: int | None = None) -> Detector:
        """Builds the model and loads the bundle's weights; `threads` sets torch's, process-wide. Raises BundleError."""
        if threads is not None:
            torch.set_num_threads(threads)
        arch = detector_architecture(bundle.architecture)
        model = groundingdino_build.build(arch)
        load_weights(model, bundle)
        return cls(model, arch, bundle, device)

    def prepare(self, image: ImageSource, request: DetectRequest) -> DetectorItem:
        """Decodes, crops, resizes and tokenises. Raises StageError for a bad image or a class over the token budget."""
        bundle = self.bundle
        self.tokenizer.captions(request.negatives, "negative_prompt")  # a fault there is that field's
        classes = (*request.classes, *request.negatives)
        if not request.classes:
            raise StageError("invalid_value", "must name at least one class", "prompt")
        captions = tuple(self.tokenizer.captions(classes))
        pixels = crop(decode(image), request.region)
        size = (pixels.shape[0], pixels.shape[1])
        height, width = resized_size(size, self.arch.short_side, self.arch.long_side)
        resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BILINEAR)
        normalised = (np.asarray(resized, np.float32) / np.float32(255) - MEAN) / STD
        step = self.arch.pad_multiple
        default = bundle.box_threshold if request.box_threshold is None else request.box_threshold
        thresholds = [default if one.box_threshold is None else one.box_threshold for one in classes]
        return DetectorItem(
            pixels=np.ascontiguousarray(normalised.transpose(2, 0, 1)),
            padded=(math.ceil(height / step) * step, math.ceil(width / step) * step),
            size=size,
            classes=classes,
            negatives_from=len(request.classes),
            captions=captions,
            box_thresholds=np.array(thresholds, np.float32),
            text_threshold=bundle.text_threshold if request.text_threshold is None else request.text_threshold,
            warnings=tuple(
                f"{one.label!r} holds no word that this model knows" for one in self.tokenizer.unknown(classes)
            ),
        )

    def batch_key(self, item: DetectorItem) -> tuple[int, int]:
        """Items of one padded shape share a batch."""
        return item.padded

    def cost(self, item: DetectorItem) -> int:
        """Captions: each is a row of the batch."""
        return len(item.captions)

    @torch.inference_mode()
    def forward(self, batch: Sequence[DetectorItem]) -> list[list[Scores]]:
        """One list of `Scores`, a caption each, for every item. All items share a `batch_key`."""
        rows = [(item, caption) for item in batch for caption in item.captions]
        height, width = batch[0].padded
        most = max(1, _MAX_FORWARD_PIXELS // (height * width))
        scores = [s for start in range(0, len(rows), most) for s in self._rows(rows[start : start + most])]
        answers, position = [], 0
        for item in batch:
            answers.append(scores[position : position + len(item.captions)])
            position += len(item.captions)
        return answers

    def _rows(self, rows: Sequence[tuple[DetectorItem, Caption]]) -> list[Scores]:
        height, width = rows[0][0].padded
        images = torch.zeros((len(rows), 3, height, width))
        padding = torch.ones((len(rows), height, width), dtype=torch.bool)
        for row, (item, _) in enumerate(rows):
            _, h, w = item.pixels.shape
            images[row, :, :h, :w] = torch.from_numpy(item.pixels)
            padding[row, :h, :w] = False
        text = groundingdino.text_batch([c.token_ids for _, c in rows], self._separators, self.tokenizer.pad_id)
        memory = groundingdino.encode(self.model, images.to(self.device), padding.to(self.device), text.to(self.device))
        proposals, proposal_boxes = groundingdino.propose(self.model, memory)
        queries = groundingdino.top_queries(self.model, proposals)
        logits, boxes = groundingdino.decode(self.model, memory, proposal_boxes, queries)
        return self._scores(rows, logits[-1], boxes[-1])

    def _scores(self, rows: Sequence[tuple[DetectorItem, Caption]], logits: Tensor, boxes: Tensor) -> list[Scores]:
        tokens = logits[..., : max(len(c.token_ids) for _, c in rows)].sigmoid().float().cpu().numpy()
        corners = boxes.float().cpu().numpy()
        return [Scores(tokens[i, :, : len(c.token_ids)], corners[i]) for i, (_, c) in enumerate(rows)]

    def finish(self, item: DetectorItem, raw: list[Scores]) -> Detections:
        """Labels every query by its best span, and keeps what passes the thresholds."""
        found = [self._candidates(item, caption, scores) for caption, scores in zip(item.captions, raw, strict=True)]
        boxes, scores, text_scores, classes = (np.concatenate(column) for column in zip(*found, strict=True))
        kept = (scores >= item.box_thresholds[classes]) & (text_scores >= item.text_threshold)
        kept &= (boxes[:, 2:] > boxes[:, :2]).all(1)
        ids = np.array([one.class_id for one in item.classes], np.int32)
        ids[item.negatives_from :] = -1 - ids[item.negatives_from :]
        return Detections(
            boxes[kept],
            scores[kept],
            text_scores[kept],
            ids[classes[kept]],
            item.size,
            passes=len(item.captions),
            warnings=item.warnings,
        )

    def _candidates(
        self, item: DetectorItem, caption: Caption, scores: Scores
    ) -> tuple[Float32Array, Float32Array, Float32Array, npt.NDArray[np.intp]]:
        """Boxes `Qx4` xyxy in pixels, score, text score and index into `item.classes` of every query."""
        means = np.stack([scores.tokens[:, a:b].mean(1) for a, b in caption.spans], 1)
        highest = np.stack([scores.tokens[:, a:b].max(1) for a, b in caption.spans], 1)
        best = means.argmax(1)
        query = np.arange(len(best))
        height, width = item.size
        center, extent = scores.boxes[:, :2], scores.boxes[:, 2:] / 2
        boxes = np.concatenate((center - extent, center + extent), 1).clip(0, 1)
        boxes = boxes * np.array([width, height, width, height], np.float32)
        return boxes, highest[query, best], means[query, best], np.array(caption.class_index)[best]

    def detect(self, image: ImageSource, request: DetectRequest, deadline: float | None = None) -> Detections:
        """`prepare`, `forward` and `finish` for one item. The deadline matters to the service only."""
        item = self.prepare(image, request)
        return self.finish(item, self.forward([item])[0])


def resized_size(size: tuple[int, int], short: int, long: int) -> tuple[int, int]:
    """`(height, width)` after `groundingdino.datasets.transforms.RandomResize([short], max_size=long)`.

    Where that makes no pixel of the shorter side, here it is one, and the longer side is `long`.
    """
    height, width = size
    low, high = float(min(size)), float(max(size))
    if high / low * short > long:
        short = int(round(long * low / high))
        if short == 0:
            return (long, 1) if width < height else (1, long)
    if width < height:
        return int(short * height / width), short
    return short, int(short * width / height)
