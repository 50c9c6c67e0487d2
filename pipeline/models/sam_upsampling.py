"""SAM's way from low-resolution logits to a mask of the image's size, without a dense array of all masks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.masks import encode_crop
from pipeline.stages import RLE, Embedding, Float32Array


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
    window = rows[y0:y1] @ logits @ columns[x0:x1].T > 0
    return encode_crop(window, (y0, x0), (height, width)), int(window.sum())
