"""Pixels to what a model reads: normalised planes."""

from __future__ import annotations

import numpy as np

from pipeline.stages import Float32Array, UInt8Array


def planes(pixels: UInt8Array, mean: Float32Array, std: Float32Array, scale: float = 1.0) -> Float32Array:
    """`HxWx3` -> `3xHxW`: `(pixels / scale - mean) / std`, to the last bit.

    Plane by plane and in place: numpy takes five times as long over rows of three.
    """
    made = np.empty((3, *pixels.shape[:2]), np.float32)
    for plane, channel, middle, spread in zip(made, np.moveaxis(pixels, 2, 0), mean, std, strict=True):
        np.divide(channel, np.float32(scale), out=plane)
        plane -= middle
        plane /= spread
    return made
