"""Measures the embedded model on fresh scenes: `python -m pipeline.tiny.evaluate --scenes 400`.

Scenes are drawn at their native size, 200 to 1,200 px a side, and go through `TextToMask` as a user's image would.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pipeline.masks import box_iou
from pipeline.masks import decode as decode_rle
from pipeline.selection import select
from pipeline.stages import DecodeOptions, DetectRequest, MaskPrompts, TextClass, UInt8Array
from pipeline.text_to_mask import TextToMask
from pipeline.tiny import phrases, scenes

Kind = tuple[int | None, int | None]
"""Colour and shape that a text names."""


class AveragePrecision:
    """COCO's average precision at one IoU threshold (101 recall points), the mean over classes."""

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self.hits: dict[Any, list[tuple[float, bool]]] = defaultdict(list)
        self.truths: dict[Any, int] = defaultdict(int)

    def add(self, name: Any, boxes: np.ndarray, scores: np.ndarray, truths: np.ndarray) -> int:
        """One image's boxes of one class; returns how many were right."""
        self.truths[name] += len(truths)
        taken = np.zeros(len(truths), bool)
        overlap = box_iou(boxes, truths)
        for i in np.argsort(-scores, kind="stable"):
            free = np.where(taken, -1.0, overlap[i])
            best = int(free.argmax()) if len(truths) else -1
            right = best >= 0 and free[best] >= self.threshold
            if right:
                taken[best] = True
            self.hits[name].append((float(scores[i]), bool(right)))
        return int(taken.sum())

    def value(self) -> float:
        return float(np.mean([self._of(name) for name, count in self.truths.items() if count]))

    def _of(self, name: Any) -> float:
        ranked = sorted(self.hits[name], key=lambda hit: -hit[0])
        right = np.cumsum([hit for _, hit in ranked]) if ranked else np.zeros(0)
        recall = right / self.truths[name]
        precision = right / np.arange(1, len(right) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        points = np.searchsorted(recall, np.linspace(0, 1, 101))
        return float(np.mean([envelope[p] if p < len(envelope) else 0.0 for p in points]))


def scene(rng: np.random.Generator, held_out: bool) -> tuple[UInt8Array, scenes.Scenes]:
    """One scene of a random size and aspect ratio, and its truth."""
    height, width = int(rng.integers(200, 1201)), int(rng.integers(200, 1201))
    drawn = scenes.draw(1, height, width, torch.Generator().manual_seed(int(rng.integers(2**31))), held_out=held_out)
    return drawn.images[0].round().byte().permute(1, 2, 0).contiguous().numpy(), drawn


def classes(kinds: Sequence[Kind]) -> tuple[TextClass, ...]:
    texts = [" ".join(phrases.phrase(*kind).words) for kind in kinds]
    return tuple(TextClass(i, text, text) for i, text in enumerate(texts))


def texts_for(
    style: str, colours: np.ndarray, shapes: np.ndarray, rng: np.random.Generator, most: int = 12
) -> list[Kind]:
    """Present classes of a style, and as many absent ones: half of those share an attribute with a present object."""

    def kind(colour: int, shape: int) -> Kind:
        return (None if style == "shape" else colour, None if style == "colour" else shape)

    held = {(scenes.COLOUR_NAMES.index(c), scenes.SHAPES.index(s)) for c, s in scenes.HELD_OUT}

    def fits(colour: int, shape: int) -> bool:
        return style not in ("seen", "held_out") or ((colour, shape) in held) == (style == "held_out")

    present = {kind(c, s) for c, s in zip(colours, shapes, strict=True) if fits(c, s)}
    everything = [(c, s) for c in range(8) for s in range(8) if fits(c, s)]
    there = {kind(c, s) for c, s in zip(colours, shapes, strict=True)}
    absent = sorted({kind(c, s) for c, s in everything} - there, key=str)
    near = [k for k in absent if (k[0] in colours) != (k[1] in shapes)]
    wanted = max(1, min(len(present), most - len(present)))
    order = [near[i] for i in rng.permutation(len(near))][: (wanted + 1) // 2] if style != "shape" else []
    order += [k for k in (absent[i] for i in rng.permutation(len(absent))) if k not in order]
    mixed = sorted(present, key=str)[:most] + order[:wanted]
    return [mixed[i] for i in rng.permutation(len(mixed))]


def detector_figures(model: TextToMask, style: str, count: int, seed: int) -> dict[str, float]:
    """AP50 without thresholds, and precision, recall and answered absent classes at the bundle's own."""
    rng = np.random.default_rng([seed, sum(map(ord, style))])
    ap, kept = AveragePrecision(), {"right": 0, "found": 0, "truths": 0, "absent": 0, "answered": 0}
    for _ in range(count):
        image, drawn = scene(rng, style == "held_out")
        there = drawn.present[0].numpy()
        colours, shapes, boxes = (t[0].numpy()[there] for t in (drawn.colours, drawn.shapes, drawn.boxes))
        kinds = texts_for(style, colours, shapes, rng)
        raw = model.detector.detect(image, DetectRequest(classes(kinds), box_threshold=0.0, text_threshold=0.0))
        bundle = model.detector.bundle
        sure = (raw.scores >= bundle.box_threshold) & (raw.text_scores >= bundle.text_threshold)
        served, _ = select(raw.take(sure))
        for i, (colour, shape) in enumerate(kinds):
            named = np.ones(len(colours), bool)
            named &= True if colour is None else colours == colour
            named &= True if shape is None else shapes == shape
            mine = raw.class_ids == i
            ap.add((colour, shape), raw.boxes[mine], raw.scores[mine], boxes[named])
            own = served.class_ids == i
            one = AveragePrecision()
            kept["right"] += one.add(i, served.boxes[own], served.scores[own], boxes[named])
            kept["found"] += int(own.sum())
            kept["truths"] += int(named.sum())
            kept["absent"] += not named.any()
            kept["answered"] += not named.any() and bool(own.any())
    return {
        "AP50": ap.value(),
        "precision": kept["right"] / max(1, kept["found"]),
        "recall": kept["right"] / max(1, kept["truths"]),
        "absent_answered": kept["answered"] / max(1, kept["absent"]),
    }


def mask_figures(model: TextToMask, count: int, seed: int) -> dict[str, float]:
    """Mean IoU of masks from true boxes and from one true point."""
    rng = np.random.default_rng([seed, 77])
    ious: dict[str, list[float]] = {"box": [], "point": []}
    for _ in range(count):
        image, drawn = scene(rng, False)
        there = drawn.present[0].numpy()
        truths, boxes = drawn.masks[0].numpy()[there], drawn.boxes[0].numpy()[there]
        spots = [np.argwhere(mask) for mask in truths]
        chosen = [spot[rng.integers(len(spot))] for spot in spots]
        points = tuple(np.array([[x, y, 1]], np.float32) for y, x in chosen)
        embedding = model.image_encoder.encode(image)
        for name, prompts in (("box", MaskPrompts(boxes=boxes)), ("point", MaskPrompts(points=points))):
            masks = model.mask_decoder.decode(embedding, prompts, DecodeOptions())
            for rle, truth in zip(masks.rles, truths, strict=True):
                mask = decode_rle(rle)
                ious[name].append(float((mask & truth).sum() / max(1, (mask | truth).sum())))
    return {f"mask_iou_{name}": float(np.mean(values)) for name, values in ious.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=400, help="scenes of each kind")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--only", choices=["detector", "segmenter"])
    args = parser.parse_args()
    model = TextToMask.from_pretrained("tiny")
    figures: dict[str, Any] = {"scenes": args.scenes, "seed": args.seed}
    if args.only != "segmenter":
        for style in ("seen", "held_out", "shape", "colour"):
            figures[style] = detector_figures(model, style, args.scenes, args.seed)
            print(style, figures[style], flush=True)
    if args.only != "detector":
        figures |= mask_figures(model, args.scenes, args.seed)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
