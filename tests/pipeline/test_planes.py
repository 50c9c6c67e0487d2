"""Normalised planes are those of the formula, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline import detector, image_encoder
from pipeline.planes import planes
from pipeline.stages import Float32Array


@pytest.mark.parametrize(
    ("mean", "std", "scale"),
    [(detector.MEAN, detector.STD, 255), (image_encoder.MEAN, image_encoder.STD, 1)],
    ids=["detector", "image encoder"],
)
def test_every_level_of_every_channel(mean: Float32Array, std: Float32Array, scale: float) -> None:
    levels = np.arange(256, dtype=np.uint8)
    pixels = np.stack([levels, levels[::-1], np.roll(levels, 7)], axis=-1).reshape(16, 16, 3)
    expected = (pixels.astype(np.float32) / np.float32(scale) - mean) / std
    made = planes(pixels, mean, std, scale)
    assert made.dtype == np.float32
    assert made.flags.c_contiguous
    assert np.array_equal(made, expected.transpose(2, 0, 1))
