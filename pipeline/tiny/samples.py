"""The sample pictures of the page: `python -m pipeline.tiny.samples` draws them into deployments/web/.

Scenes whose picture is small as a PNG (no camera noise), with things that touch, and of which the embedded model finds
every one that the sample's text on the page names.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from pipeline.tiny import scenes

SEEDS = (55, 57, 68)
HEIGHT, WIDTH = 480, 640
FOLDER = Path(__file__).parents[2] / "deployments" / "web"


def main(folder: Path = FOLDER) -> None:
    """Write `sample-1.png` and so on."""
    for number, seed in enumerate(SEEDS, 1):
        drawn = scenes.draw(1, HEIGHT, WIDTH, torch.Generator().manual_seed(seed))
        picture = Image.fromarray(drawn.images[0].byte().permute(1, 2, 0).numpy())
        picture.quantize(256).save(folder / f"sample-{number}.png", optimize=True)


if __name__ == "__main__":
    main()
