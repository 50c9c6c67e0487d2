"""GroundingDINO's deformable attention as one kernel for GPUs: samples are weighed and summed while they are read.

Where it cannot run (no Triton, no compiler, a card that it does not know) `sample` is the published function; which of
the two is found out once a device, by a small sum that both are given.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from groundingdino.models.GroundingDINO.ms_deform_attn import multi_scale_deformable_attn_pytorch
from torch import Tensor

logger = logging.getLogger(__name__)

if importlib.util.find_spec("triton") is not None:
    import triton
    import triton.language as tl
else:  # of torch builds for the CPU alone
    triton = tl = None

_QUERIES = 32  # of one head in one program: 32 rows of 32 numbers a corner
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def _corner(values, line, column, height, width, first, pitch, channel, wanted):  # type: ignore[no-untyped-def]
    """The rows of values at one corner of each sample, in float32; 0 beyond the borders."""
    inside = (line >= 0) & (line < height) & (column >= 0) & (column < width)
    token = first + tl.where(inside, line, 0.0).to(tl.int32) * width + tl.where(inside, column, 0.0).to(tl.int32)
    where = token[:, None] * pitch + channel[None, :]
    return tl.load(values + where, mask=inside[:, None] & wanted, other=0.0).to(tl.float32)


def _kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations, and knows its own alone
    values,
    sizes,
    locations,
    weights,
    output,
    tokens,
    queries,
    heads: tl.constexpr,
    levels: tl.constexpr,
    points: tl.constexpr,
    depth: tl.constexpr,
    wide: tl.constexpr,
    block: tl.constexpr,
):
    """One image, one head, `block` queries. `sizes` holds height, width and first token of each level."""
    row = tl.program_id(1)
    image = (row // heads).to(tl.int64)
    head = row % heads
    query = tl.program_id(0) * block + tl.arange(0, block)
    asked = query < queries
    channel = tl.arange(0, wide)
    wanted = asked[:, None] & (channel < depth)[None, :]
    of_image = values + image * tokens * heads * depth + head * depth
    place = (image * queries + query) * heads + head  # of each query's head among all
    total = tl.zeros((block, wide), tl.float32)
    for level in range(levels):
        height = tl.load(sizes + level * 3)
        width = tl.load(sizes + level * 3 + 1)
        first = tl.load(sizes + level * 3 + 2)
        for point in range(points):
            sample = (place * levels + level) * points + point
            weight = tl.load(weights + sample, mask=asked, other=0.0).to(tl.float32)
            x = tl.load(locations + sample * 2, mask=asked, other=0.0).to(tl.float32) * width - 0.5
            y = tl.load(locations + sample * 2 + 1, mask=asked, other=0.0).to(tl.float32) * height - 0.5
            left = tl.floor(x)
            top = tl.floor(y)
            # No numbers where the location is none: no row is read there, and the query's answer is none either.
            of_right = x - left
            of_lower = y - top
            upper = _corner_of(of_image, top, left, height, width, first, heads * depth, channel, wanted)
            upper = upper * (1 - of_right)[:, None]
            after = _corner_of(of_image, top, left + 1, height, width, first, heads * depth, channel, wanted)
            upper += after * of_right[:, None]
            lower = _corner_of(of_image, top + 1, left, height, width, first, heads * depth, channel, wanted)
            lower = lower * (1 - of_right)[:, None]
            after = _corner_of(of_image, top + 1, left + 1, height, width, first, heads * depth, channel, wanted)
            lower += after * of_right[:, None]
            total += (upper * (1 - of_lower)[:, None] + lower * of_lower[:, None]) * weight[:, None]
    written = output + place[:, None] * depth + channel[None, :]
    tl.store(written, total.to(output.dtype.element_ty), mask=wanted)


if triton is not None:
    _corner_of = triton.jit(_corner)
    # Sizes that vary from image to image: no kernel of their own for those that 16 divides, compiled on a request.
    kernel: Any = triton.jit(_kernel, do_not_specialize=["tokens", "queries"])
else:
    kernel = None


def sample(values: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """`multi_scale_deformable_attn_pytorch`: bilinear, zero beyond the borders, `align_corners=False`.

    Args:
        values: `BxSxHxD` of any of the three precisions, the levels one after another, row by row.
        shapes: `(height, width)` of each level; their areas sum to S.
        locations: `BxQxHxLxPx2` float32, x and y as shares of a level's width and height.
        weights: `BxQxHxLxP` float32.

    Returns:
        `BxQx(H*D)` as precise as `values`; summed in float32.
    """
    if works(values.device, values.dtype, len(shapes)):
        return fused(values, shapes, locations, weights)
    return published(values, shapes, locations, weights)


def published(values: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """The same by the published function, in float32."""
    sizes = torch.tensor(shapes)
    answer: Tensor = multi_scale_deformable_attn_pytorch(values.float(), sizes, locations.float(), weights.float())
    return answer.to(values.dtype)


def fused(values: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """The same by the kernel."""
    batch, tokens, heads, depth = values.shape
    _, queries, _, levels, points, _ = locations.shape
    output = torch.empty((batch, queries, heads * depth), dtype=values.dtype, device=values.device)
    # A launch goes to the current device, whatever its arguments lie on.
    on: AbstractContextManager[Any] = torch.cuda.device(values.device) if values.is_cuda else nullcontext()
    with on:
        kernel[(triton.cdiv(queries, _QUERIES), batch * heads)](
            values.contiguous(),
            _sizes(tuple(shapes), values.device),
            locations.contiguous(),
            weights.contiguous(),
            output,
            tokens,
            queries,
            heads=heads,
            levels=levels,
            points=points,
            depth=depth,
            wide=triton.next_power_of_2(depth),
            block=_QUERIES,
        )
    return output


@functools.lru_cache(maxsize=256)
def _sizes(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """`Lx3` int32 on the device: height, width and first token of each level."""
    rows, first = [], 0
    for height, width in shapes:
        rows.append((height, width, first))
        first += height * width
    return torch.tensor(rows, dtype=torch.int32).to(device)


@functools.cache
def works(device: torch.device, dtype: torch.dtype, levels: int) -> bool:
    """Whether the kernel runs there and gives the published answer; a warning, once, where it does not."""
    if kernel is None:
        logger.warning("Deformable attention runs as published: Triton is not installed.")
        return False
    try:
        shapes = [(5, 7), (3, 4), (2, 2), (1, 1), (2, 3)][:levels] + [(2, 2)] * max(0, levels - 5)
        random = torch.Generator().manual_seed(0)
        tokens = sum(height * width for height, width in shapes)
        values = torch.randn(2, tokens, 8, 32, generator=random).to(device, dtype)
        locations = (torch.rand(2, 37, 8, levels, 4, 2, generator=random) * 1.4 - 0.2).to(device)
        weights = torch.rand(2, 37, 8, levels, 4, generator=random).to(device)
        expected = published(values, shapes, locations, weights).float()
        off = (fused(values, shapes, locations, weights).float() - expected).abs().max() / expected.abs().max()
        if bool(off <= _TOLERANCE[dtype]):
            return True
        logger.warning("Deformable attention runs as published: the kernel's answers are off by %.1e.", float(off))
    except Exception as error:  # whatever the compiler or the driver finds
        logger.warning("Deformable attention runs as published: the kernel does not run here (%r).", error)
    return False
