"""How much does a class's score move with the company it is in? `python -m benchmarks.class_company`

GroundingDINO reads picture and caption together, so a class's score depends on the other classes of its caption. Here
a class is asked for alone, and then with others in the same caption; printed is by how much the score of its best box
moves, and how often that makes or breaks a detection at the bundle's own thresholds.

- Probes: in each drawn scene the name of one object ("red star"), and one name of which nothing is there. The score is
  that of the best box of this class: for the object, of those with an IoU of at least 0.5 with it; 0 if there is none.
- Company: names of which nothing is there ("absent"), names of the other objects ("present"), or the wider names of the
  probe's own object ("red", "star": a box bears one class, so these can take it). The last line asks for the same
  classes twice, in another order.

The scenes are the embedded model's own. Official detectors understand the words too, so `--detector swint` (after
`text2mask download swint+vit_b`, on a GPU with `--device cuda`; about 22 captions a scene) measures them on drawings.
To say something of photographs, `scene` has to return photographs with their boxes and names: the 5,000 pictures of
COCO val2017, with names of its 80 classes, of which those not annotated in a picture count as absent.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch

from pipeline.bundle import resolve
from pipeline.detector import Detector
from pipeline.masks import box_iou
from pipeline.prompt import parse_classes
from pipeline.stages import DetectRequest, Float32Array, UInt8Array
from pipeline.tiny import scenes

COUNTS = (2, 5, 10, 15)
Score = tuple[float, float]
"""`score` and `text_score` of a class's best box."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture; `(colour, shape)` and box of each object in it."""

    image: UInt8Array
    objects: list[tuple[str, str]]
    boxes: Float32Array


@dataclass(frozen=True, slots=True)
class Probe:
    """A class to ask for, the box of its object (None: there is none), and the company to ask in, by kind."""

    name: str
    box: Float32Array | None
    company: dict[str, list[str]]


@dataclass
class Row:
    """One line of the table: score changes, and whether each made or broke a detection."""

    changes: list[float] = field(default_factory=list)
    crossings: list[bool] = field(default_factory=list)


def scene(rng: np.random.Generator) -> Scene:
    height, width = int(rng.integers(200, 801)), int(rng.integers(200, 801))
    drawn = scenes.draw(1, height, width, torch.Generator().manual_seed(int(rng.integers(2**31))), held_out=False)
    there = drawn.present[0]
    names = [
        (scenes.COLOUR_NAMES[colour], scenes.SHAPES[shape])
        for colour, shape in zip(drawn.colours[0][there].tolist(), drawn.shapes[0][there].tolist(), strict=True)
    ]
    image = drawn.images[0].round().byte().permute(1, 2, 0).contiguous().numpy()
    return Scene(image, names, drawn.boxes[0][there].numpy())


def probes(one: Scene, rng: np.random.Generator) -> list[Probe]:
    """An object of the scene, and a class that is absent from it."""
    colours, shapes = {colour for colour, _ in one.objects}, {shape for _, shape in one.objects}
    absent = [f"{colour} {shape}" for colour in scenes.COLOURS for shape in scenes.SHAPES]
    absent = [name for name in absent if tuple(name.split()) not in {*one.objects, *scenes.HELD_OUT}]
    absent += [name for name in (*scenes.COLOURS, *scenes.SHAPES) if name not in colours | shapes]
    pick = int(rng.integers(len(one.objects)))
    colour, shape = one.objects[pick]
    others = {pair for pair in one.objects if pair != (colour, shape)}
    present = {" ".join(pair) for pair in others} | ({word for pair in others for word in pair} - {colour, shape})
    missing = str(rng.choice([name for name in absent if " " in name]))
    elsewhere = {" ".join(pair) for pair in one.objects} | colours | shapes
    return [
        Probe(
            f"{colour} {shape}",
            one.boxes[pick],
            {"absent": absent, "present": sorted(present), "its own wider names": [colour, shape]},
        ),
        Probe(
            missing,
            None,
            {"absent": [name for name in absent if name != missing], "present": sorted(elsewhere - {*missing.split()})},
        ),
    ]


def best(detector: Detector, one: Scene, probe: Probe, names: list[str]) -> Score | None:
    """The score of the probe's class among `names`; None where they do not fit one caption."""
    request = DetectRequest(parse_classes(names), box_threshold=0.0, text_threshold=0.0)
    if len(detector.tokenizer.captions(request.classes)) > 1:
        return None
    found = detector.detect(one.image, request)
    mine = found.class_ids == names.index(probe.name)
    if probe.box is not None:
        mine &= box_iou(found.boxes, probe.box[None])[:, 0] >= 0.5
    if not mine.any():
        return 0.0, 0.0
    top = found.scores[mine].argmax()
    return float(found.scores[mine][top]), float(found.text_scores[mine][top])


def measure(detector: Detector, count: int, seed: int) -> dict[tuple[str, str, int], Row]:
    """Rows by probe, company and number of others."""
    rng = np.random.default_rng(seed)
    bundle = detector.bundle
    rows: dict[tuple[str, str, int], Row] = defaultdict(Row)

    def note(key: tuple[str, str, int], before: Score | None, after: Score | None) -> None:
        if before is None or after is None:
            return
        sure = [score >= bundle.box_threshold and text >= bundle.text_threshold for score, text in (before, after)]
        rows[key].changes.append(abs(after[0] - before[0]))
        rows[key].crossings.append(sure[0] != sure[1])

    for _ in range(count):
        one = scene(rng)
        for probe in probes(one, rng):
            kind = "absent" if probe.box is None else "present"
            alone = best(detector, one, probe, [probe.name])
            for company, pool in probe.company.items():
                for number in COUNTS:
                    if number > len(pool):
                        continue
                    names = [probe.name, *rng.choice(pool, number, replace=False).tolist()]
                    names = rng.permutation(names).tolist()
                    together = best(detector, one, probe, names)
                    note((kind, company, number), alone, together)
                    if (company, number) == ("absent", COUNTS[-1]):
                        again = best(detector, one, probe, rng.permutation(names).tolist())
                        note((kind, "the same, in another order", number), together, again)
    return rows


def table(rows: dict[tuple[str, str, int], Row]) -> str:
    """Markdown."""
    lines = [
        "| class asked for | company | others | cases | median change | 95th percentile | made or broken |",
        "|---|---|---|---|---|---|---|",
    ]
    order = ["absent", "present", "its own wider names", "the same, in another order"]
    for key in sorted(rows, key=lambda key: (key[0] != "present", order.index(key[1]), key[2])):
        kind, company, number = key
        changes, crossings = rows[key].changes, rows[key].crossings
        middle, high = np.percentile(changes, (50, 95))
        figures = f"{len(changes)} | {middle:.3f} | {high:.3f} | {100 * np.mean(crossings):.1f} %"
        lines.append(f"| {kind} | {company} | {number} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="tiny", help="a registry name, or a bundle's folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch; its own choice where not given")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    detector = Detector.from_bundle(resolve(args.detector, "detector"), device=args.device, threads=args.threads)
    rows = measure(detector, args.scenes, args.seed)
    bundle = detector.bundle
    print(f"{bundle.name}, {args.scenes} scenes, seed {args.seed}, thresholds {bundle.box_threshold} and ", end="")
    print(f"{bundle.text_threshold}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
