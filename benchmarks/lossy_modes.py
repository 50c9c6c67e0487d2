"""What each mode that changes answers does to the embedded model: `python -m benchmarks.lossy_modes --scenes 80`.

All modes see the same fresh scenes and texts, drawn as for `python -m pipeline.tiny.evaluate`. For each:

- box AP50 and AP (IoU 0.5 to 0.95) of the detector without thresholds, the mean over the classes asked for;
- mask AP (0.5 to 0.95) of what is served: boxes over the bundle's thresholds, their masks, the detector's scores;
- the mean IoU of masks from the true boxes;
- CPU-seconds of the stage that the mode changes, as a share of float32's, on one thread. A GPU's are its own matter.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.lossy_stages import Mode, modes
from pipeline.mask_decoder import MaskDecoder
from pipeline.masks import box_iou
from pipeline.masks import decode as decode_rle
from pipeline.stages import DecodeOptions, DetectRequest, Embedding, Float32Array, MaskPrompts, UInt8Array
from pipeline.tiny.evaluate import AveragePrecision, classes, scene, texts_for

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
COLUMNS = ("box AP50", "box AP", "mask AP", "mask IoU")


@dataclass(frozen=True)
class Scene:
    image: UInt8Array
    kinds: list[Any]
    named: list[Any]  # of each kind, which objects it names
    boxes: Float32Array
    masks: Any


def drawn(count: int, seed: int) -> list[Scene]:
    rng, made = np.random.default_rng(seed), []
    for _ in range(count):
        image, truth = scene(rng, False)
        there = truth.present[0].numpy()
        colours, shapes, boxes, masks = (
            one[0].numpy()[there] for one in (truth.colours, truth.shapes, truth.boxes, truth.masks)
        )
        kinds = texts_for("seen", colours, shapes, rng)
        made.append(Scene(image, kinds, [(colours == c) & (shapes == s) for c, s in kinds], boxes, masks))
    return made


class Figures:
    """Of one mode, over all scenes."""

    def __init__(self) -> None:
        self.box = [AveragePrecision(threshold) for threshold in THRESHOLDS]
        self.mask = [AveragePrecision(threshold) for threshold in THRESHOLDS]
        self.ious: list[float] = []
        self.seconds: dict[str, float] = {"detector": 0.0, "encoder": 0.0, "decoder": 0.0}

    def timed(self, stage: str, run: Callable[[], Any]) -> Any:
        begin = time.thread_time()
        made = run()
        self.seconds[stage] += time.thread_time() - begin
        return made

    def values(self) -> list[float]:
        ap = [float(np.mean([one.value() for one in kind])) for kind in (self.box, self.mask)]
        return [self.box[0].value(), *ap, float(np.mean(self.ious))]


def add(aps: list[AveragePrecision], kind: Any, overlap: Any, scores: Any) -> None:
    """One image's answers of one class, by their `NxM` overlap with its M objects."""
    for ap in aps:
        ap.truths[kind] += overlap.shape[1]
        taken = np.zeros(overlap.shape[1], bool)
        for i in np.argsort(-scores, kind="stable"):
            free = np.where(taken, -1.0, overlap[i])
            right = bool(len(free)) and bool(free.max() >= ap.threshold)
            if right:
                taken[free.argmax()] = True
            ap.hits[kind].append((float(scores[i]), right))


def mask_iou(found: Any, truths: Any) -> Any:
    if not len(found) or not len(truths):
        return np.zeros((len(found), len(truths)), np.float32)
    a, b = (masks.reshape(len(masks), -1).astype(np.float32) for masks in (found, truths))
    both = a @ b.T
    return both / np.maximum(1, a.sum(1)[:, None] + b.sum(1)[None] - both)


def judge(figures: Figures, one: Scene, raw: Any, sure: Any, masks: Any, from_truth: Any) -> None:
    overlaps = mask_iou(masks, one.masks)
    for i, kind in enumerate(one.kinds):
        named, mine, served = one.named[i], raw.class_ids == i, (raw.class_ids == i) & sure
        add(figures.box, kind, box_iou(raw.boxes[mine], one.boxes[named]), raw.scores[mine])
        add(figures.mask, kind, overlaps[served[sure]][:, named], raw.scores[served])
    figures.ious += [
        float((mask & truth).sum() / max(1, (mask | truth).sum()))
        for mask, truth in zip(from_truth, one.masks, strict=True)
    ]


def run(figures: Figures, one: Scene, mode: Mode, kept: dict[str, Any]) -> None:
    """One scene in one mode. `kept`: what float32's stages answered, filled by its own turn, which comes first."""
    base: Mode = kept.setdefault("mode", mode)
    detector, encoder, decoder = mode.detector, mode.encoder, mode.decoder or base.decoder
    assert decoder is not None
    if detector is not None:
        request = DetectRequest(classes(one.kinds), box_threshold=0.0, text_threshold=0.0)
        raw = figures.timed("detector", lambda: detector.detect(one.image, request))
    else:
        raw = kept["raw"]
    embedding = kept["embedding"] if encoder is None else figures.timed("encoder", lambda: encoder.encode(one.image))
    if mode is base:
        kept |= {"raw": raw, "embedding": embedding}
    assert base.detector is not None
    bundle = base.detector.bundle
    sure = (raw.scores >= bundle.box_threshold) & (raw.text_scores >= bundle.text_threshold)
    served = [] if not sure.any() else masks_of(figures, decoder, embedding, raw.boxes[sure])
    masks = np.array(served, bool).reshape(len(served), *one.image.shape[:2])
    judge(figures, one, raw, sure, masks, masks_of(figures, decoder, embedding, one.boxes))


def masks_of(figures: Figures, decoder: MaskDecoder, embedding: Embedding, boxes: Float32Array) -> list[Any]:
    made = figures.timed("decoder", lambda: decoder.decode(embedding, MaskPrompts(boxes=boxes), DecodeOptions()))
    return [decode_rle(rle) for rle in made.rles]


def speeds(mode: Mode, figures: Figures, base: Figures) -> dict[str, float]:
    """Of each stage that the mode changes, its CPU-seconds as a share of float32's."""
    own = {"detector": mode.detector, "encoder": mode.encoder, "decoder": mode.decoder}
    return {stage: figures.seconds[stage] / base.seconds[stage] for stage, there in own.items() if there is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=80)
    parser.add_argument("--seed", type=int, default=2468)
    parser.add_argument("--only", nargs="+", help="modes by name, beside float32")
    parser.add_argument("--json", type=Path, help="also write the figures here, beside those of the same scenes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    arms = [mode for mode in modes() if args.only is None or mode.name in ("float32", *args.only)]
    found = {mode.name: Figures() for mode in arms}
    for one in drawn(args.scenes, args.seed):
        kept: dict[str, Any] = {}
        for mode in arms:
            run(found[mode.name], one, mode, kept)
    base = found["float32"]
    print(f"{args.scenes} scenes, seed {args.seed}\n")
    print(f"| | {' | '.join(COLUMNS)} | CPU-seconds |\n|{'---|' * (len(COLUMNS) + 2)}")
    rows = {}
    for mode in arms:
        values, speed = found[mode.name].values(), speeds(mode, found[mode.name], base)
        rows[mode.name] = dict(zip(COLUMNS, values, strict=True)) | {"cpu_seconds": speed}
        cells = [
            f"{value:.4f}" if mode is arms[0] else f"{value:.4f} ({value - first:+.4f})"
            for value, first in zip(values, base.values(), strict=True)
        ]
        shares = ", ".join(f"{stage} {share:.2f}" for stage, share in speed.items())
        print(f"| {mode.name} | {' | '.join(cells)} | {'1' if mode is arms[0] else shares} |")
    if args.json:
        asked = {"scenes": args.scenes, "seed": args.seed}
        last = json.loads(args.json.read_text()) if args.json.exists() else {}
        if {name: last.get(name) for name in asked} == asked:
            rows = last["modes"] | rows
        args.json.write_text(json.dumps(asked | {"modes": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
