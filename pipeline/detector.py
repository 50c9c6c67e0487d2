"""GroundingDINO: an image and classes in, labelled boxes out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from pipeline.bundle import Bundle, load_weights
from pipeline.errors import StageError, too_late
from pipeline.image import decode_region
from pipeline.labelling import Criteria, Scores, candidates, criteria, merge
from pipeline.models import groundingdino, groundingdino_build, groundingdino_precision, transfer
from pipeline.models.architectures import DetectorArchitecture, detector_architecture
from pipeline.models.pixels import normalised
from pipeline.models.precision import DTYPES, Precision
from pipeline.planes import planes
from pipeline.prompt import Caption, Tokenizer
from pipeline.shape_buckets import bucket
from pipeline.stages import Detections, DetectRequest, Float32Array, ImageSource, UInt8Array

# `groundingdino.util.inference.load_image`
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
# A caption is a row of the batch; at 800x1333 a row takes 0.9 GB. Beyond this many pixels, rows go in turns.
_MAX_FORWARD_PIXELS = 8 * 800 * 1344
# A caption costs 1 on an image of so many pixels after resizing, and 2 on one of twice as many: half of 800x1344.
_CAPTION_PIXELS = 400 * 1344
# In process, a request of many captions runs in parts of so many, so that its memory does not grow with them.
_MAX_PART_PIXELS, _MAX_PART_CAPTIONS = 2 * 800 * 1344, 16

Shapes = Literal["exact", "buckets"]
"""What an image is padded to: `exact`, as its architecture has it; `buckets`, to one of few shapes, with slightly other
answers. In both a function of the image alone."""


@dataclass(frozen=True, slots=True)
class DetectorItem:
    """One request, ready for the model.

    Attributes:
        pixels: `3xHxW`, resized, not yet padded: float32 and normalised, or uint8 where the device normalises.
        padded: `(height, width)` of the model input, a function of the image alone.
        size: `(height, width)` of the image or region.
        captions: of the classes, then the negatives.
        wanted: what a box needs to be a detection.
        warnings: sentences for the caller.
    """

    pixels: Float32Array | UInt8Array
    padded: tuple[int, int]
    size: tuple[int, int]
    captions: tuple[Caption, ...]
    wanted: Criteria
    warnings: tuple[str, ...]


class Detector:
    """Finds the boxes that classes name. `prepare` and `finish` are thread-safe; one thread at a time in `forward`.

    Args:
        model: an official `GroundingDINO`, as `pipeline.models.groundingdino_build.build` makes it.
        arch: its hyper-parameters.
        bundle: vocabulary, token budget and default thresholds.
        device: where the model runs.
        precision: of the layers that can be less precise (`groundingdino_precision`); the model is changed in place.
        shapes: what images are padded to.
    """

    def __init__(
        self,
        model: Any,
        arch: DetectorArchitecture,
        bundle: Bundle,
        device: str = "cpu",
        precision: Precision = "float32",
        shapes: Shapes = "exact",
    ) -> None:
        if bundle.vocabulary is None:
            raise ValueError("a detector needs a vocabulary")
        if device != "cpu" or precision != "float32":
            groundingdino_precision.install(model, DTYPES[precision])
        self.model = model.to(device).eval()
        self.arch = arch
        self.bundle = bundle
        self.device = device
        self.normalises_on_device = device != "cpu"
        self.shapes = shapes
        self.tokenizer = Tokenizer(bundle.vocabulary, bundle.max_tokens)
        self._separators = frozenset({self.tokenizer.cls_id, self.tokenizer.sep_id, self.tokenizer.dot_id})

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        *,
        device: str = "cpu",
        threads: int | None = None,
        precision: Precision = "float32",
        shapes: Shapes = "exact",
    ) -> Detector:
        """Builds the model and loads the bundle's weights; `threads` sets torch's, process-wide. Raises BundleError."""
        if threads is not None:
            torch.set_num_threads(threads)
        arch = detector_architecture(bundle.architecture)
        model = groundingdino_build.build(arch)
        load_weights(model, bundle)
        return cls(model, arch, bundle, device, precision, shapes)

    def prepare(self, image: ImageSource, request: DetectRequest) -> DetectorItem:
        """Decodes, crops, resizes and tokenises. Raises StageError for a bad image or a class over the token budget."""
        self.tokenizer.captions(request.negatives, "negative_prompt")  # a fault there is that field's
        classes = (*request.classes, *request.negatives)
        if not request.classes:
            raise StageError("invalid_value", "must name at least one class", "prompt")
        captions = tuple(self.tokenizer.captions(classes))
        pixels = decode_region(image, request.region)
        size = (pixels.shape[0], pixels.shape[1])
        height, width = resized_size(size, self.arch.short_side, self.arch.long_side)
        resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BILINEAR)
        levels: UInt8Array = np.asarray(resized)
        return DetectorItem(
            pixels=np.ascontiguousarray(levels.transpose(2, 0, 1))
            if self.normalises_on_device
            else planes(levels, MEAN, STD, scale=255),
            padded=self._padded(height, width),
            size=size,
            captions=captions,
            wanted=criteria(request, self.bundle.box_threshold, self.bundle.text_threshold),
            warnings=tuple(
                f"{one.label!r} holds no word that this model knows" for one in self.tokenizer.unknown(classes)
            ),
        )

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        if self.shapes == "buckets":
            return bucket((height, width), self.arch.short_side, self.arch.long_side)
        step = self.arch.pad_multiple
        return math.ceil(height / step) * step, math.ceil(width / step) * step

    def batch_key(self, item: DetectorItem) -> tuple[int, int]:
        """Items of one padded shape share a batch."""
        return item.padded

    def cost(self, item: DetectorItem) -> int:
        """Captions, each a row of the batch; on a large image a caption costs more."""
        return len(item.captions) * _caption_cost(item.padded)

    def split(self, item: DetectorItem, max_cost: int | None = None) -> list[DetectorItem]:
        """The item by groups of its captions: of `max_cost` at most, or without it as many as need little memory."""
        if max_cost is None:
            height, width = item.padded
            count = max(1, min(_MAX_PART_CAPTIONS, _MAX_PART_PIXELS // (height * width)))
        else:
            count = max(1, max_cost // _caption_cost(item.padded))
        starts = range(0, len(item.captions), count)
        return [replace(item, captions=item.captions[start : start + count]) for start in starts]

    @torch.inference_mode()
    def forward(self, batch: Sequence[DetectorItem]) -> list[list[Scores]]:
        """One list of `Scores`, a caption each, for every item. All items share a `batch_key`."""
        rows = [(number, caption) for number, item in enumerate(batch) for caption in item.captions]
        height, width = batch[0].padded
        most = max(1, _MAX_FORWARD_PIXELS // (height * width))
        answers: list[list[Scores]] = [[] for _ in batch]
        for start in range(0, len(rows), most):
            turn = rows[start : start + most]
            for (number, _), scores in zip(turn, self._rows(batch, turn), strict=True):
                answers[number].append(scores)
        return answers

    def _rows(self, batch: Sequence[DetectorItem], rows: Sequence[tuple[int, Caption]]) -> list[Scores]:
        """`rows` are captions, each with the number of its item in `batch`, in rising order."""
        numbers = sorted({number for number, _ in rows})
        height, width = batch[0].padded
        images = torch.zeros(
            (len(numbers), 3, height, width), dtype=torch.uint8 if self.normalises_on_device else torch.float32
        )
        padding = torch.ones((len(numbers), height, width), dtype=torch.bool)
        for place, number in enumerate(numbers):
            _, h, w = batch[number].pixels.shape
            images[place, :, :h, :w] = torch.from_numpy(batch[number].pixels)
            padding[place, :h, :w] = False
        image_of = None if len(numbers) == len(rows) else torch.tensor([numbers.index(number) for number, _ in rows])
        text = groundingdino.text_batch([c.token_ids for _, c in rows], self._separators, self.tokenizer.pad_id)
        memory = groundingdino.encode(
            self.model,
            self._normalised(transfer.to_device(images, self.device), [batch[number] for number in numbers]),
            transfer.to_device(padding, self.device),
            text.to(self.device),
            None if image_of is None else image_of.to(self.device),
        )
        proposals, proposal_boxes = groundingdino.propose(self.model, memory)
        queries = groundingdino.top_queries(self.model, proposals)
        logits, boxes = groundingdino.decode(self.model, memory, proposal_boxes, queries)
        tokens, corners = transfer.to_host(logits[-1][..., : memory.text.shape[1]].sigmoid(), boxes[-1])
        return [Scores(tokens[i, :, : len(c.token_ids)], corners[i]) for i, (_, c) in enumerate(rows)]

    def _normalised(self, images: torch.Tensor, items: Sequence[DetectorItem]) -> torch.Tensor:
        if images.dtype != torch.uint8:
            return images
        return normalised(
            images, [(item.pixels.shape[1], item.pixels.shape[2]) for item in items], MEAN, STD, scale=255
        )

    def finish(self, item: DetectorItem, raw: list[Scores]) -> Detections:
        """Of each caption the boxes that pass the thresholds, or in raw mode the best pairs of a box and a class."""
        pairs = zip(item.captions, raw, strict=True)
        return self.merge(item, [candidates(item.wanted, caption, scores, item.size) for caption, scores in pairs])

    def merge(self, item: DetectorItem, parts: Sequence[Detections]) -> Detections:
        """One answer from those of the parts of `item`, in their order."""
        return merge(item.wanted, parts, item.warnings)

    def detect(self, image: ImageSource, request: DetectRequest, deadline: float | None = None) -> Detections:
        """Candidate boxes of one image, its captions a few at a time.

        Raises StageError for a bad image or prompt, and `deadline_exceeded` where a part of the work would begin late.
        """
        item = self.prepare(image, request)
        parts = []
        for part in self.split(item):
            if deadline is not None and time.time() >= deadline:
                raise too_late()
            parts.append(self.finish(part, self.forward([part])[0]))
        return self.merge(item, parts)


def _caption_cost(padded: tuple[int, int]) -> int:
    return math.ceil(padded[0] * padded[1] / _CAPTION_PIXELS)


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
