"""Pixels to a model's numbers on its device: a byte each to send, not four, and nothing for the CPU to compute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.models import transfer
from pipeline.stages import Float32Array


def normalised(
    pixels: Tensor, kept: Sequence[tuple[int, int]], mean: Float32Array, std: Float32Array, scale: float = 1.0
) -> Tensor:
    """`(pixels / scale - mean) / std` by channel, to the last bit or one beside it, and 0 on padding.

    Args:
        pixels: `Bx3xHxW` uint8 on the device. kept: `(height, width)` of each image at the top left; padding beyond.
    """
    middle, spread = (
        transfer.to_device(torch.from_numpy(one), str(pixels.device))[:, None, None] for one in (mean, std)
    )
    values = pixels.float().div_(scale).sub_(middle).div_(spread)
    for image, (height, width) in zip(values, kept, strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return values
