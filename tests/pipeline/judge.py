"""The official code as the judge: what `GroundingDINO.forward` and `SamPredictor` make of the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pipeline.models import groundingdino
from pipeline.models.architectures import DetectorArchitecture
from pipeline.models.groundingdino import Memory, TextBatch
from pipeline.stages import Detections

TOLERANCE = 1e-4
"""Of the largest magnitude, fp32."""


def deviation(actual: Any, expected: Any) -> float:
    """The largest difference, as a share of the largest magnitude expected. Infinities must be in the same places."""
    a, b = torch.as_tensor(actual).double(), torch.as_tensor(expected).double()
    assert a.shape == b.shape
    finite = b.isfinite()
    if not torch.equal(a.isfinite(), finite) or not torch.equal(a[~finite], b[~finite]):
        return float("inf")
    return float((a[finite] - b[finite]).abs().max() / b[finite].abs().max())


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the official detector computed on its way. Names as in `Transformer.forward`.

    Attributes:
        memory: `BxSxC`. memory_text: `BxLxC`.
        proposals: `BxSx256` logits of every image token, before the top-k.
        queries: `BxQ` int64, the top-k.
        references: `BxQx4`, the boxes of the top-k before the sigmoid.
        logits: `BxQx256`. boxes: `BxQx4`, `cxcywh` as shares of the image.
    """

    memory: Tensor
    memory_text: Tensor
    proposals: Tensor
    queries: Tensor
    references: Tensor
    logits: Tensor
    boxes: Tensor


class _TopK(TorchFunctionMode):
    """Keeps the indices of every `torch.topk` call."""

    def __init__(self) -> None:
        super().__init__()
        self.indices: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.topk:
            self.indices.append(out[1])
        return out


def bert_tokenizer(vocabulary: Path) -> Any:
    """The official detector's tokenizer, of another vocabulary file."""
    return import_module("transformers").BertTokenizer(vocab=str(vocabulary), do_lower_case=True)


def tokenised(tokenizer: Any, captions: Sequence[str]) -> TextBatch:
    """Our masks and positions, on the official tokenizer's ids."""
    special = frozenset(tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "."]))
    ids = [tuple(tokenizer(caption)["input_ids"]) for caption in captions]
    return groundingdino.text_batch(ids, special, tokenizer.pad_token_id)


@torch.inference_mode()
def official_detector(model: Any, tokenizer: Any, images: Tensor, padding: Tensor, captions: Sequence[str]) -> Verdict:
    """`GroundingDINO.forward` of `model`, watched.

    Args:
        images: `Bx3xHxW`, normalised, zero on padding. padding: `BxHxW` bool, True on padding.
        captions: `"car . wheel ."`.
    """
    model.tokenizer = tokenizer
    model.specical_tokens = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"])
    seen: dict[str, Any] = {}
    transformer = model.transformer
    hooks = [
        transformer.encoder.register_forward_hook(lambda *call: seen.update(memory=call[2])),
        transformer.enc_out_class_embed.register_forward_hook(lambda *call: seen.update(proposals=call[2])),
        transformer.decoder.register_forward_pre_hook(
            lambda _, args, kwargs: seen.update(references=kwargs["refpoints_unsigmoid"]), with_kwargs=True
        ),
    ]
    nested = import_module("groundingdino.util.misc").NestedTensor
    try:
        with _TopK() as topk:
            out = model(nested(images, padding), captions=list(captions))
    finally:
        for hook in hooks:
            hook.remove()
    (queries,) = topk.indices
    return Verdict(
        memory=seen["memory"][0],
        memory_text=seen["memory"][1],
        proposals=seen["proposals"],
        queries=queries,
        references=seen["references"].transpose(0, 1),
        logits=out["pred_logits"],
        boxes=out["pred_boxes"],
    )


@torch.inference_mode()
def detector_deviations(
    model: Any, images: Tensor, padding: Tensor, text: TextBatch, judge: Verdict
) -> dict[str, float]:
    """Ours against the judge, part by part; the decoder starts from the judge's own top-k."""
    memory: Memory = groundingdino.encode(model, images, padding, text)
    proposals, boxes = groundingdino.propose(model, memory)
    logits, out_boxes = groundingdino.decode(model, memory, boxes, judge.queries)
    chosen = torch.gather(boxes, 1, judge.queries[..., None].expand(-1, -1, 4))
    return {
        "memory": deviation(memory.image, judge.memory),
        "memory_text": deviation(memory.text, judge.memory_text),
        "proposals": deviation(proposals, judge.proposals),
        "references": deviation(chosen, judge.references),
        "logits": deviation(logits[-1], judge.logits),
        "boxes": deviation(out_boxes[-1], judge.boxes),
    }


def official_pixels(image: np.ndarray[Any, Any], arch: DetectorArchitecture) -> Tensor:
    """`3xHxW` as `groundingdino.util.inference.load_image` makes it."""
    transforms = import_module("groundingdino.datasets.transforms")
    steps = transforms.Compose(
        [
            transforms.RandomResize([arch.short_side], max_size=arch.long_side),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    pixels: Tensor = steps(Image.fromarray(image), None)[0]
    return pixels


def padded(pixels: Sequence[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
    """`(images, padding)` of one padded shape, images at the top left."""
    images = torch.zeros((len(pixels), 3, height, width))
    padding = torch.ones((len(pixels), height, width), dtype=torch.bool)
    for row, one in enumerate(pixels):
        images[row, :, : one.shape[1], : one.shape[2]] = one
        padding[row, : one.shape[1], : one.shape[2]] = False
    return images, padding


def left_out(found: Detections, expected: Detections, pixel: Any) -> int:
    """How many of `expected` have no counterpart of their own in `found`: the same class, scores within 1e-3, and box
    sides within `pixel` (a number, or one for each side).

    Queries within rounding of each other at the top-k may change places or leave: that is what may be left out.
    """
    free = np.ones(len(found), bool)
    missing = 0
    for i in range(len(expected)):
        near = (np.abs(found.boxes - expected.boxes[i]) <= pixel).all(1)
        near &= np.abs(found.scores - expected.scores[i]) <= 1e-3
        near &= np.abs(found.text_scores - expected.text_scores[i]) <= 1e-3
        near &= found.class_ids == expected.class_ids[i]
        candidates = np.flatnonzero(near & free)
        if len(candidates):
            free[candidates[0]] = False
        else:
            missing += 1
    return missing + max(0, len(found) - len(expected))


def mask_pixels_off(found: Any, expected: Any) -> int:
    """By how many pixels two masks differ, beyond max(2, 0.1 % of the area): our resampling rounds in another order."""
    assert found.shape == expected.shape
    return int((found != expected).sum() - max(2, 0.001 * expected.sum()))
