"""Does tiling lose anything? `python -m benchmarks.tiling`: precision and recall of the embedded model, three ways.

1. untiled, on scenes of the tile's size: what the model can do;
2. tiled, on scenes of 4,000 x 3,000 pixels: the same 200 objects at the same sizes in pixels, as dense, on the same
   background, in a new arrangement;
3. untiled, on those large scenes.

A detection is right if it has the class of an object and its mask an IoU of 0.5 or more with the visible part of it;
each object counts once. An object is reported twice if two detections have such an IoU with it, or its class and most
of their mask on it; because of a seam, if no tile that holds its middle, as an image of its own, reports it as often.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.large_scene import Scene, draw, style, things
from pipeline import Result, TextToMask
from pipeline.image import crop
from pipeline.masks import decode_crop
from pipeline.stages import DetectRequest, TextClass
from pipeline.tiling import Tiling, parse_tile, plan
from pipeline.windows import Window, common, extent

HEIGHT, WIDTH = 3000, 4000
OBJECTS, CLASSES, MOST = 200, 12, 1000


@dataclass
class Tally:
    """What was found, over all scenes of one kind."""

    name: str
    truths: int = 0
    found: int = 0
    right: int = 0
    seconds: float = 0.0
    ious: list[float] = field(default_factory=list)

    def add(self, scene: Scene, result: Result) -> None:
        iou, _ = overlaps(scene, result)
        iou = np.where(same_class(scene, result), iou, 0)
        for row in np.argsort(-result.scores, kind="stable"):
            best = int(iou[row].argmax())
            if iou[row, best] >= 0.5:
                self.right += 1
                self.ious.append(float(iou[row, best]))
                iou[:, best] = 0
        self.truths += len(scene.things)
        self.found += len(result)
        self.seconds += result.timings_ms["total"] / 1000

    @property
    def precision(self) -> float:
        return self.right / max(1, self.found)

    @property
    def recall(self) -> float:
        return self.right / max(1, self.truths)

    def row(self) -> str:
        figures = f"{self.truths} | {self.found} | {self.precision:.3f} | {self.recall:.3f}"
        return f"| {self.name} | {figures} | {np.mean(self.ious or [0]):.3f} | {self.seconds:.0f} |"


def overlaps(scene: Scene, result: Result, offset: tuple[int, int] = (0, 0)) -> tuple[Any, Any]:
    """IoU of each detection with each object `(N, M)`, and the share of its mask that lies on it; of a crop at `offset`
    `(x, y)` of the scene, where `result` is of one."""
    iou, share = np.zeros((2, len(result), len(scene.masks)))
    own = [int(np.count_nonzero(mask)) for mask, _ in scene.masks]
    for row, rle in enumerate(result.rles or ()):
        mask, (y, x) = decode_crop(rle)
        window: Window = mask, (y + offset[1], x + offset[0])
        area = max(1, int(np.count_nonzero(mask)))
        for column, truth in enumerate(scene.masks):
            shared = common(window, truth)
            iou[row, column], share[row, column] = shared / (area + own[column] - shared), shared / area
    return iou, share


def same_class(scene: Scene, result: Result) -> npt.NDArray[np.bool_]:
    labels = np.array([thing.label for thing in scene.things])
    same: npt.NDArray[np.bool_] = np.array(result.labels, labels.dtype)[:, None] == labels[None]
    return same


def reports(scene: Scene, result: Result, offset: tuple[int, int] = (0, 0)) -> npt.NDArray[np.int64]:
    """How many detections are each object `(M,)`."""
    iou, share = overlaps(scene, result, offset)
    counts: npt.NDArray[np.int64] = ((iou >= 0.5) | same_class(scene, result) & (share > 0.5)).sum(axis=0)
    return counts


def twice_by_seams(model: TextToMask, scene: Scene, result: Result, labels: list[str], tiling: Tiling) -> int:
    """Reports of an object beyond the first that no tile which holds its middle gives when taken alone."""
    extra = 0
    counts = reports(scene, result)
    for number in np.flatnonzero(counts > 1):
        x0, y0, x1, y1 = extent(scene.masks[number])
        x, y = (x0 + x1) // 2, (y0 + y1) // 2
        holding = [tile for tile in tiling.regions if tile[0] <= x < tile[2] and tile[1] <= y < tile[3]]
        alone = [model.predict(crop(scene.image, tile), labels, max_detections=MOST) for tile in holding]
        most = max(int(reports(scene, each, tile[:2])[number]) for each, tile in zip(alone, holding, strict=True))
        extra += max(0, int(counts[number]) - max(1, most))
    return extra


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=5, help=f"large scenes, {OBJECTS} objects each")
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--tile", type=int, nargs=2, metavar=("SIZE", "OVERLAP"), help="in pixels; auto by default")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = TextToMask.from_pretrained("tiny")
    tile: Any = "auto" if args.tile is None else {"size": args.tile[0], "overlap": args.tile[1]}
    tiling = plan(
        (HEIGHT, WIDTH),
        parse_tile(tile),
        model.detector.arch.short_side,
        DetectRequest(tuple(TextClass(number, "", "") for number in range(CLASSES))),
    )
    assert tiling is not None
    side = tiling.regions[0][3]
    whole, tiled, shrunk = Tally("untiled, scenes of the tile's size"), Tally("tiled"), Tally("untiled")
    extra = 0
    for number in range(args.scenes):
        rng = np.random.default_rng([args.seed, number])
        look = style(rng, side, CLASSES)
        large = draw(rng, look, things(rng, look, OBJECTS, side), HEIGHT, WIDTH)
        few = round(len(large.things) * side**2 / (HEIGHT * WIDTH))
        for start in range(0, len(large.things), few):
            small = draw(rng, look, large.things[start : start + few], side, side)
            whole.add(small, model.predict(small.image, look.labels, max_detections=MOST))
        result = model.predict(large.image, look.labels, tile=tile, max_detections=MOST)
        tiled.add(large, result)
        extra += twice_by_seams(model, large, result, look.labels, tiling)
        shrunk.add(large, model.predict(large.image, look.labels, max_detections=MOST))
    print(f"{len(tiling.regions)} tiles of {side} px; {args.scenes} large scenes, {CLASSES} classes each\n")
    print("| | objects | found | precision | recall | mask IoU | seconds |\n|---|---|---|---|---|---|---|")
    print("\n".join(tally.row() for tally in (whole, tiled, shrunk)))
    lost = whole.precision - tiled.precision, whole.recall - tiled.recall
    print(f"\nlost by tiling: precision {lost[0]:+.3f}, recall {lost[1]:+.3f}")
    print(f"reported twice because of a seam: {extra}")


if __name__ == "__main__":
    main()
