"""Draws the set that accuracy is watched on: `python -m tests.data.draw`, into tests/data/drawn/.

48 scenes of `pipeline.tiny.scenes`, of colours and shapes that training has seen and of seeds that it has not. 30 of
the 56 combinations are categories; the others are there to be mistaken for them. Ids of categories have gaps, and one
scene in eight is drawn until it holds none of them. Masks are run lengths of what is visible.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline import masks as rle
from pipeline.stages import UInt8Array
from pipeline.tiny import scenes

PLACE = Path(__file__).parent / "drawn"
SEED, SCENES = 60_606, 48
SIDES = (200, 420)  # shortest and longest, in pixels
QUALITY = 85  # of WebP: about 12 KB a scene

_SEEN = [
    (colour, shape) for colour in scenes.COLOURS for shape in scenes.SHAPES if (colour, shape) not in scenes.HELD_OUT
]
CATEGORIES: dict[tuple[str, str], int] = {
    kind: 3 * number + 1 for number, kind in enumerate(kind for at, kind in enumerate(_SEEN) if at % 15 % 2 == 0)
}
"""Colour and shape of each category, and its id."""


def drawn() -> Iterator[tuple[dict[str, Any], UInt8Array, list[dict[str, Any]]]]:
    """Of each scene its entry in `images`, its `HxWx3` pixels, and its annotations, all but their ids."""
    rng = np.random.default_rng(SEED)
    for number in range(1, SCENES + 1):
        height, width = (int(side) for side in rng.integers(*SIDES, size=2))
        while True:
            generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
            scene = scenes.draw(1, height, width, generator, held_out=False, objects=2 if number % 8 == 0 else 8)
            annotations = _annotations(scene)
            if bool(annotations) != (number % 8 == 0):
                break
        image = {"id": number, "file_name": f"images/{number:03}.webp", "width": width, "height": height}
        pixels = scene.images[0].round().byte().permute(1, 2, 0).contiguous().numpy()
        yield image, pixels, [{"image_id": number, **one} for one in annotations]


def _annotations(scene: scenes.Scenes) -> list[dict[str, Any]]:
    found = []
    for slot in scene.present[0].nonzero().flatten().tolist():
        kind = scenes.COLOUR_NAMES[int(scene.colours[0, slot])], scenes.SHAPES[int(scene.shapes[0, slot])]
        if kind not in CATEGORIES:
            continue
        mask = scene.masks[0, slot].numpy()
        x0, y0, x1, y1 = scene.boxes[0, slot].tolist()
        segmentation = {"size": list(mask.shape), "counts": rle.encode(mask).counts}
        box = [x0, y0, x1 - x0, y1 - y0]
        found.append({"category_id": CATEGORIES[kind], "bbox": box, "area": int(mask.sum()), "iscrowd": 0,
                      "segmentation": segmentation})  # fmt: skip
    return found


def main() -> None:
    (PLACE / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for image, pixels, own in drawn():
        Image.fromarray(pixels).save(PLACE / image["file_name"], quality=QUALITY, method=6)
        images.append(image)
        annotations += own
    numbered = [{"id": number, **one} for number, one in enumerate(annotations, 1)]
    categories = [
        {"id": number, "name": f"{colour} {shape}", "supercategory": shape}
        for (colour, shape), number in CATEGORIES.items()
    ]
    info = {"description": "scenes drawn by tests/data/draw.py"}
    parts = {"images": images, "annotations": numbered, "categories": categories}
    lines = [f'"info":{json.dumps(info)}']
    for name, rows in parts.items():  # a line each, so that a change can be read
        lines.append(f'"{name}":[\n' + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]")
    (PLACE / "instances.json").write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
