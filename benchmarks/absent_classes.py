"""How often are classes answered that are not in the picture? `python -m benchmarks.absent_classes`

The embedded model, on fresh drawn scenes. Each request names the classes of the scene and as many absent ones of three
kinds: those that share a word with an object of the scene (`red star` beside a red ring), those that share none, and a
word that the model does not know. The same texts are asked of plain pictures, too. One detector pass a picture; the
thresholds are applied afterwards.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch

from pipeline import TextToMask
from pipeline.masks import box_iou
from pipeline.selection import select
from pipeline.stages import Detections, DetectRequest, Float32Array, TextClass, UInt8Array
from pipeline.tiny import scenes

THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)
KINDS = ("shares a word", "shares none", "unknown word")
UNKNOWN = "violin"
Name = tuple[int, int]
"""Colour and shape."""


def pictures(count: int, seed: int) -> Iterator[tuple[UInt8Array, list[Name], Float32Array]]:
    """Scenes of 300 x 400 pixels, with the name and the box of each object."""
    for number in range(count):
        drawn = scenes.draw(1, 300, 400, torch.Generator().manual_seed(seed + number), held_out=False)
        there = drawn.present[0]
        names = list(zip(drawn.colours[0][there].tolist(), drawn.shapes[0][there].tolist(), strict=True))
        image = drawn.images[0].round().byte().permute(1, 2, 0).contiguous().numpy()
        yield image, names, drawn.boxes[0][there].numpy()


def texts(names: list[Name], rng: np.random.Generator) -> list[tuple[str, str]]:
    """`(kind, text)` of the classes to ask for, in random order; `""` is the kind of those that are there."""
    present = sorted(set(names))
    colours, shapes = {c for c, _ in names}, {s for _, s in names}
    absent = [(c, s) for c in range(8) for s in range(8) if (c, s) not in present]
    near = [name for name in absent if (name[0] in colours) or (name[1] in shapes)]
    far = [name for name in absent if name[0] not in colours and name[1] not in shapes]
    chosen = [("", name) for name in present]
    for kind, pool in zip(KINDS, (near, far), strict=False):
        chosen += [(kind, pool[i]) for i in rng.permutation(len(pool))[: max(1, len(present) // 2)]]
    asked = [(kind, f"{scenes.COLOUR_NAMES[c]} {scenes.SHAPES[s]}") for kind, (c, s) in chosen]
    asked.append((KINDS[2], UNKNOWN))
    return [asked[i] for i in rng.permutation(len(asked))]


def found(model: TextToMask, image: UInt8Array, asked: list[tuple[str, str]]) -> Detections:
    """All candidates, of any score; the text threshold is the bundle's."""
    classes = tuple(TextClass(i, text, text) for i, (_, text) in enumerate(asked))
    return model.detector.detect(image, DetectRequest(classes, box_threshold=0.0))


class Counts:
    """What happened at each threshold."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.answered: dict[float, Counter[str]] = {threshold: Counter() for threshold in THRESHOLDS}

    def absent(self, detections: Detections, asked: list[tuple[str, str]], where: str) -> None:
        for class_id, (kind, _) in enumerate(asked):
            if not kind and where == "scene":
                continue
            name = kind if where == "scene" else where
            self.asked[name] += 1
            best = detections.scores[detections.class_ids == class_id].max(initial=-1)
            for threshold in THRESHOLDS:
                self.answered[threshold][name] += bool(best >= threshold)

    def present(
        self, detections: Detections, asked: list[tuple[str, str]], names: list[Name], boxes: Float32Array
    ) -> None:
        """Objects found and detections that are right, after NMS: each object once, best scores first."""
        kept, _ = select(detections)
        labels = [f"{scenes.COLOUR_NAMES[c]} {scenes.SHAPES[s]}" for c, s in names]
        overlap = box_iou(kept.boxes, boxes)
        for row, class_id in enumerate(kept.class_ids):
            overlap[row, [label != asked[class_id][1] for label in labels]] = 0
        free = np.ones(len(names), np.bool_)
        right = np.zeros(len(kept), np.bool_)
        for row in range(len(kept)):
            best = int(np.where(free, overlap[row], -1).argmax())
            right[row] = free[best] and overlap[row, best] >= 0.5
            free[best] &= not right[row]
        self.asked["objects"] += len(names)
        for threshold in THRESHOLDS:
            sure = kept.scores >= threshold
            self.answered[threshold].update(right=int(right[sure].sum()), all=int(sure.sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=240)
    parser.add_argument("--seed", type=int, default=4321)
    args = parser.parse_args()
    model, rng, counts = TextToMask.from_pretrained("tiny"), np.random.default_rng(args.seed), Counts()
    for image, names, boxes in pictures(args.scenes, args.seed):
        asked = texts(names, rng)
        detections = found(model, image, asked)
        counts.absent(detections, asked, "scene")
        counts.present(detections, asked, names, boxes)
        plain = np.empty_like(image)
        plain[:] = rng.integers(0, 256, 3, dtype=np.uint8)
        counts.absent(found(model, plain, asked), asked, "plain picture")
    columns = (*KINDS, "plain picture")
    print(f"{args.scenes} scenes, {counts.asked['objects']} objects; own thresholds: ", end="")
    print(f"box {model.detector.bundle.box_threshold}, text {model.detector.bundle.text_threshold}")
    print("\n| box threshold | precision | recall | " + " | ".join(f"answered: {name}" for name in columns) + " |")
    print("|" + "---|" * (3 + len(columns)))
    for threshold in THRESHOLDS:
        at = counts.answered[threshold]
        shares = [at["right"] / max(1, at["all"]), at["right"] / counts.asked["objects"]]
        answered = [at[name] / max(1, counts.asked[name]) for name in columns]
        print(f"| {threshold} | " + " | ".join(f"{share:.2f}" for share in shares) + " | ", end="")
        print(" | ".join(f"{100 * share:.1f} %" for share in answered) + " |")


if __name__ == "__main__":
    main()
