"""SAM's way from low-resolution logits to a mask of the image's size, without a dense array of all masks.

On a CPU a mask at a time, and of it what can be inside. On a GPU whole, as fast as it is written, and sent as bits.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.masks import encode_crop
from pipeline.stages import RLE, Embedding, Float32Array, UInt8Array

_STRIP = 128  # rows of a banded matrix at a time
_PIXELS = 2**26  # of masks at a time on a device: 256 MB of float32


@lru_cache(maxsize=8)  # up to 34 MB each; one image needs two
def _resampling(low: int, model: int, kept: int, out: int) -> Float32Array:
    """`Sam.postprocess_masks` along one axis, as a matrix `(out, low)`.

    It resizes `low` to `model`, crops to `kept`, and resizes to `out`; both steps are linear, and separable by axis.
    """
    basis = torch.eye(low)[None]
    upsampled = F.interpolate(basis, size=model, mode="linear", align_corners=False)[..., :kept]
    return F.interpolate(upsampled, size=out, mode="linear", align_corners=False)[0].T.contiguous().numpy()


def full_size(logits: Float32Array, embedding: Embedding, model: int) -> tuple[RLE, int]:
    """The mask at full size and its area, from `4Sx4S` logits: `Sam.postprocess_masks`, then `> 0`.

    Weights are never negative, so only rows and columns that a positive logit reaches can be inside the mask: the rest
    is not computed.
    """
    (height, width), (kept_height, kept_width) = embedding.image_size, embedding.input_size
    rows = _resampling(logits.shape[0], model, kept_height, height)
    columns = _resampling(logits.shape[1], model, kept_width, width)
    positive = logits > 0
    y = np.flatnonzero(rows[:, positive.any(1)].any(1))
    x = np.flatnonzero(columns[:, positive.any(0)].any(1))
    if len(y) == 0 or len(x) == 0:
        return encode_crop(np.zeros((0, 0), bool), (0, 0), (height, width)), 0
    y0, y1, x0, x1 = int(y[0]), int(y[-1]) + 1, int(x[0]), int(x[-1]) + 1
    upright = _banded(rows[y0:y1], torch.from_numpy(logits))
    window = (_banded(columns[x0:x1], upright.T).T > 0).numpy()
    return encode_crop(window, (y0, x0), (height, width)), int(window.sum())


def _banded(weights: Float32Array, x: Tensor) -> Tensor:
    """`weights @ x`, `MxK` by `KxN`, where a row's weights are a few neighbours: of each strip only those it needs.

    By torch: numpy's products take all cores, whatever the number of threads.
    """
    product = torch.empty(len(weights), x.shape[1])
    for start in range(0, len(weights), _STRIP):
        strip = weights[start : start + _STRIP]
        used = np.flatnonzero(strip.any(0))
        near = slice(int(used[0]), int(used[-1]) + 1)
        torch.mm(torch.from_numpy(strip[:, near]), x[near], out=product[start : start + _STRIP])
    return product


def packed(logits: Tensor, embedding: Embedding, model: int) -> Tensor:
    """Masks at full size as bits, where the logits are: `Sam.postprocess_masks`, then `> 0`.

    Args:
        logits: `Nx4Sx4S` float32. embedding: what sizes they are brought to. model: side of the model's input.

    Returns:
        `N x W x ceil(H/8)` uint8: column by column, the topmost of eight pixels in the lowest bit.
    """
    (height, width), (kept_height, kept_width) = embedding.image_size, embedding.input_size
    bits = 2 ** torch.arange(8, device=logits.device, dtype=torch.uint8)
    parts = []
    for part in logits[:, None].split(max(1, _PIXELS // max(height * width, model * model))):
        whole = F.interpolate(part, (model, model), mode="bilinear", align_corners=False)
        kept = whole[..., :kept_height, :kept_width]
        inside = F.interpolate(kept, (height, width), mode="bilinear", align_corners=False)[:, 0] > 0
        columns = F.pad(inside.transpose(1, 2).to(torch.uint8), (0, -height % 8))
        parts.append((columns.unflatten(-1, (-1, 8)) * bits).sum(-1, dtype=torch.uint8))
    return torch.cat(parts)


def packed_shape(embedding: Embedding) -> tuple[int, int]:
    """Of one mask, as `packed` makes it, a byte each."""
    height, width = embedding.image_size
    return width, -(-height // 8)


def unpacked(bits: UInt8Array, embedding: Embedding) -> tuple[RLE, int]:
    """The mask at full size and its area, from its `W x ceil(H/8)` bits."""
    size = embedding.image_size
    x = np.flatnonzero(bits.any(1))
    if len(x) == 0:
        return encode_crop(np.zeros((0, 0), bool), (0, 0), size), 0
    x0, x1 = int(x[0]), int(x[-1]) + 1
    columns = np.unpackbits(bits[x0:x1], axis=1, bitorder="little", count=size[0])
    return encode_crop(columns.T, (0, x0), size), int(np.count_nonzero(columns))
