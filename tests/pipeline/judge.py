"""The official code as the judge: what `GroundingDINO.forward` and `SamPredictor` make of the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
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
    """Ours against the judge, part by part."""
    memory = groundingdino.encode(model, images, padding, text)
    return deviations_from(model, memory, *groundingdino.propose(model, memory), judge)


@torch.inference_mode()
def deviations_from(model: Any, memory: Memory, proposals: Tensor, boxes: Tensor, judge: Verdict) -> dict[str, float]:
    """The same from what `encode` and `propose` gave; the decoder starts from the judge's own top-k."""
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


def official_pixels(image: npt.NDArray[np.uint8], arch: DetectorArchitecture) -> Tensor:
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


def photo(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """A picture of blobs: unlike noise, they survive the resizing."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def padded(pixels: Sequence[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
    """`(images, padding)` of one padded shape, images at the top left."""
    images = torch.zeros((len(pixels), 3, height, width))
    padding = torch.ones((len(pixels), height, width), dtype=torch.bool)
    for row, one in enumerate(pixels):
        images[row, :, : one.shape[1], : one.shape[2]] = one
        padding[row, : one.shape[1], : one.shape[2]] = False
    return images, padding


def labelled(tokenizer: Any, judge: Verdict, texts: Sequence[str], size: tuple[int, int]) -> Detections:
    """Every query of a one-image verdict: its box in pixels and its best class, by the official spans of the caption.

    Args:
        texts: the classes of the caption. size: `(height, width)` of the image.
    """
    tokens = tokenizer([" . ".join(texts) + " ."], return_tensors="pt")
    special = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"])
    official = import_module("groundingdino.models.GroundingDINO.bertwarper")
    _, _, spans = official.generate_masks_with_special_tokens_and_transfer_map(tokens, special, tokenizer)
    probabilities = judge.logits[0, :, : tokens["input_ids"].shape[1]].sigmoid()
    means = torch.stack([probabilities[:, span].mean(1) for span in spans[0][: len(texts)]], 1)
    highest = torch.stack([probabilities[:, span].max(1)[0] for span in spans[0][: len(texts)]], 1)
    frame = torch.tensor([size[1], size[0]] * 2)
    boxes = import_module("groundingdino.util.box_ops").box_cxcywh_to_xyxy(judge.boxes[0]) * frame
    boxes = torch.minimum(boxes.clamp(min=0), frame)
    query, best = torch.arange(len(means)), means.argmax(1)
    scores, text_scores = highest[query, best].numpy(), means[query, best].numpy()
    everything = Detections(boxes.numpy(), scores, text_scores, best.numpy().astype(np.int32), size)
    return everything.take(np.flatnonzero((everything.boxes[:, 2:] > everything.boxes[:, :2]).all(1)))


class PublishedEvaluation:
    """`PostProcessCocoGrounding` of `demo/test_ap_on_coco.py`, written down anew from its definition: that file is in
    no package. Spans, map and boxes come from the package.

    The score of a class is the mean of the token probabilities at its positions; of all (query, class) pairs of an
    image the best `count` are its answer; boxes become corners, scaled to the image.

    Args:
        tokenizer: the official detector's. names: the classes of the caption.
    """

    def __init__(self, tokenizer: Any, names: Sequence[str], count: int) -> None:
        official = import_module("groundingdino.util.vl_utils")
        self.caption, spans = official.build_captions_and_token_span(names, True)
        tokens = tokenizer(self.caption)
        self.token_ids = tuple(tokens["input_ids"])
        self.positive_map = official.create_positive_map_from_span(tokens, [spans[name] for name in names])
        self.count = count

    def __call__(self, tokens: Tensor, boxes: Tensor, size: tuple[int, int]) -> Detections:
        """Of one image's `QxL` token probabilities and `Qx4` boxes. `size` is `(height, width)`."""
        missing = self.positive_map.shape[1] - tokens.shape[1]
        scores = torch.nn.functional.pad(tokens, (0, missing)) @ self.positive_map.T
        values, pairs = scores.flatten().topk(self.count)
        query, label = pairs // scores.shape[1], pairs % scores.shape[1]
        corners = import_module("groundingdino.util.box_ops").box_cxcywh_to_xyxy(boxes)[query]
        corners = (corners * torch.tensor([size[1], size[0]] * 2)).numpy()
        return Detections(corners, values.numpy(), values.numpy(), label.numpy().astype(np.int32), size)


def pixel(size: tuple[int, int], resized: tuple[int, int]) -> npt.NDArray[np.float64]:
    """0.01 px of the resized image, in pixels of the image, for each side of a box. Sizes are `(height, width)`."""
    return 0.01 * np.array([size[1] / resized[1], size[0] / resized[0]] * 2)


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
