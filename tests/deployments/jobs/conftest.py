"""Pictures for jobs, and the session's Ray to run them on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.tiny import scenes
from tests.deployments.jobs.s3 import bucket, s3_endpoint, s3_environment  # noqa: F401  # fixtures

PROMPT = "circle, square, star, triangle"


def drawn(number: int, height: int = 192, width: int = 256) -> Image.Image:
    """A scene of the embedded model's world."""
    import torch

    image = scenes.draw(1, height, width, torch.Generator().manual_seed(number)).images[0]
    return Image.fromarray(image.round().byte().permute(1, 2, 0).contiguous().numpy())


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen scenes, of two shapes, and two empty pictures in which nothing is found."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(16):
        size = (192, 256) if number % 2 else (256, 192)
        drawn(number, *size).save(folder / f"{number:02}.jpg", quality=95)
    for name in ("empty a.png", "empty b.png"):
        Image.fromarray(np.full((192, 256, 3), 127, np.uint8)).save(folder / name)
    return folder
