"""GroundingDINO's deformable attention without `grid_sample`: one weighted look-up of rows for each query and head.

The published code samples each level with `grid_sample`, stacks the samples of all levels and weighs them: five passes
over an array of every sample, 290 MB an image of 800x1066. A bilinear sample is a weighted sum of four rows of the
values, so all samples of a query and head are one row of `embedding_bag`: 4 corners x levels x points rows, each with
its weight, summed while they are read. A few queries at a time keep indices and weights within the CPU's cache. GPUs
have a kernel of their own (`deformable_triton`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from groundingdino.models.GroundingDINO.ms_deform_attn import MultiScaleDeformableAttention
from torch import Tensor

from pipeline.models import deformable_triton

_QUERIES = 1024  # at a time: 4 MB of indices and weights with 8 heads, 4 levels and 4 points


class DeformableAttention(MultiScaleDeformableAttention):  # type: ignore[misc]  # its base has no types
    """The official module, with its parameters; its forward pass where no gradient is wanted."""

    def forward(self, query: Tensor, **others: Any) -> Tensor:
        """As the official one, arguments and answer; `spatial_shapes` may be on the CPU, which saves waiting for it."""
        if torch.is_grad_enabled():
            others["spatial_shapes"] = others["spatial_shapes"].to(query.device)
            answer: Tensor = super().forward(query, **others)
            return answer
        return _attend(self, query, **others)


def _attend(
    module: Any,
    query: Tensor,
    value: Tensor | None = None,
    query_pos: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    reference_points: Tensor | None = None,
    spatial_shapes: Tensor | None = None,
    **others: Any,
) -> Tensor:
    """`MultiScaleDeformableAttention.forward`, step by step, up to the sampling."""
    assert reference_points is not None
    assert spatial_shapes is not None
    value = query if value is None else value
    query = query if query_pos is None else query + query_pos
    if not module.batch_first:
        query, value = query.transpose(0, 1), value.transpose(0, 1)
    batch, queries = query.shape[:2]
    heads, levels, points = module.num_heads, module.num_levels, module.num_points

    values = module.value_proj(value)
    if key_padding_mask is not None:
        values = values.masked_fill(key_padding_mask[..., None], 0.0)
    values = values.reshape(batch, value.shape[1], heads, -1)
    offsets = module.sampling_offsets(query).view(batch, queries, heads, levels, points, 2)
    weights = module.attention_weights(query).view(batch, queries, heads, levels * points).softmax(-1)
    shapes = [(int(height), int(width)) for height, width in spatial_shapes.tolist()]
    if reference_points.shape[-1] == 2:
        locations = reference_points[:, :, None, :, None] + offsets / _extents(tuple(shapes), offsets.device)
    else:
        centre, size = reference_points[:, :, None, :, None].split(2, -1)
        locations = centre + offsets / points * size * 0.5
    weights = weights.view(batch, queries, heads, levels, points)
    if values.is_cpu:  # an `embedding_bag` takes rows and weights of one type
        sampled = sample(values.float(), shapes, locations, weights)
    else:
        sampled = deformable_triton.sample(values, shapes, locations, weights)
    output = module.output_proj(sampled)
    return output if module.batch_first else output.transpose(0, 1)  # type: ignore[no-any-return]


@lru_cache(maxsize=256)
def _extents(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """`Lx1x2` float32: width and height of each level, beside P points."""
    return torch.tensor([[(width, height)] for height, width in shapes], dtype=torch.float32).to(device)


def sample(values: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """`multi_scale_deformable_attn_pytorch`: bilinear, zero beyond the borders, `align_corners=False`.

    Args:
        values: `BxSxHxD` float32, the levels one after another, row by row.
        shapes: `(height, width)` of each level; their areas sum to S.
        locations: `BxQxHxLxPx2`, x and y as shares of a level's width and height.
        weights: `BxQxHxLxP`.

    Returns:
        `BxQx(H*D)`.
    """
    batch, tokens, heads, depth = values.shape
    queries = locations.shape[1]
    grid = _Grid(shapes, heads)
    output = values.new_empty(batch, queries, heads, depth)
    for number in range(batch):
        table = values[number].reshape(tokens * heads, depth)
        for start in range(0, queries, _QUERIES):
            part = slice(start, start + _QUERIES)
            rows, shares = grid.corners(locations[number, part], weights[number, part])
            bags = F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares)
            output[number, part] = bags.view(-1, heads, depth)
    return output.view(batch, queries, heads * depth)


class _Grid:
    """Where each level's rows lie in a table of `S*H` rows, `H` of them for each token."""

    def __init__(self, shapes: list[tuple[int, int]], heads: int) -> None:
        sizes = torch.tensor([(width, height) for height, width in shapes], dtype=torch.float32)
        areas = torch.tensor([height * width for height, width in shapes], dtype=torch.int32)
        self.width, self.height = sizes[:, :1], sizes[:, 1:]  # (L, 1), beside P points
        self.pitch = self.width.int()
        self.first = (areas.cumsum(0, dtype=torch.int32) - areas)[:, None]
        self.head = torch.arange(heads, dtype=torch.int32)[:, None, None, None]
        self.heads = heads

    def corners(self, locations: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """The four rows about each sample, int32, and the weight of each; `(QH)x(L*P*4)`.

        A corner beyond the border has the weight 0 and some row within.
        """
        (left, right), (at_left, at_right) = _sides(locations[..., 0], self.width)
        (above, below), (at_top, at_bottom) = _sides(locations[..., 1], self.height)
        up, down = above.mul_(self.pitch).add_(self.first), below.mul_(self.pitch).add_(self.first)
        upper, lower = at_top.mul_(weights), at_bottom.mul_(weights)
        rows = torch.empty((*weights.shape, 4), dtype=torch.int32)
        shares = torch.empty((*weights.shape, 4))
        for corner, (y, x, of_y, of_x) in enumerate(
            ((up, left, upper, at_left), (up, right, upper, at_right))
            + ((down, left, lower, at_left), (down, right, lower, at_right))
        ):
            torch.add(y, x, out=rows[..., corner])
            torch.mul(of_y, of_x, out=shares[..., corner])
        rows.mul_(self.heads).add_(self.head)
        return rows.view(len(weights) * self.heads, -1), shares.view(len(weights) * self.heads, -1)


def _sides(location: Tensor, size: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Along one axis: the indices before and after each location, int32, and their weights. `grid_sample`'s own steps:
    from shares to its -1 to 1, and from there to pixels."""
    position = ((2 * location - 1 + 1) * size - 1) / 2
    before = position.floor()
    of_after = position.sub_(before)
    after, of_before = before + 1, 1 - of_after
    last = size - 1
    of_before.mul_((before >= 0) & (before <= last))
    of_after.mul_((after >= 0) & (after <= last))
    # A location that is no number leaves its weight none either, and looks up the first row.
    indices = [torch.nan_to_num_(one.clamp_(min=0).minimum(last), nan=0.0).int() for one in (before, after)]
    return (indices[0], indices[1]), (of_before, of_after)
