"""SAM's image attention by fused kernels: its relative positions become part of queries and keys.

To the map of a query the published code adds `rel_h[y of key] + rel_w[x of key]`, as large as the map itself; a kernel
that never writes the map down cannot take that. Here a query carries `rel_h` and `rel_w` behind its own numbers, and a
key, in the same places, a 1 at its row and a 1 at its column: the dot product is the published sum, and nothing is left
to add.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention, Block, window_partition, window_unpartition
from torch import Tensor

Way = Literal["joined", "bias"]
"""`joined` as above; `bias`: the sums written down, and given to the kernel as its mask."""

_MULTIPLE = 16  # of a head's width: what fused kernels ask for, or take without a copy
_MAX_BIAS_BYTES = 2**31


def block(one: Block, x: Tensor, way: Way = "joined") -> Tensor:
    """`Block.forward`, `BxHxWxD`; the windows of all images are one batch."""
    height, width = x.shape[1:3]
    inner = one.norm1(x)
    if one.window_size > 0:
        windows, padded = window_partition(inner, one.window_size)
        inner = window_unpartition(attention(one.attn, windows, way), one.window_size, padded, (height, width))
    else:
        inner = attention(one.attn, inner, way)
    x = x + inner
    return x + one.mlp(one.norm2(x))  # type: ignore[no-any-return]


def attention(module: Attention, x: Tensor, way: Way = "joined") -> Tensor:
    """`Attention.forward` with `add_decomposed_rel_pos`, `BxHxWxD`."""
    batch, height, width, _ = x.shape
    heads, tokens = module.num_heads, height * width
    q, k, v = module.qkv(x).reshape(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    grid = q.reshape(batch, heads, height, width, -1)
    # The kernel scales the whole dot product, and these are not to be scaled. Divided in float32, rounded once.
    rows = (relative(module.rel_pos_h, height) / module.scale).to(q.dtype)
    columns = (relative(module.rel_pos_w, width) / module.scale).to(q.dtype)
    by_row = torch.einsum("bnhwc,hkc->bnhwk", grid, rows).reshape(batch, heads, tokens, height)
    by_column = torch.einsum("bnhwc,wkc->bnhwk", grid, columns).reshape(batch, heads, tokens, width)
    mix = _joined if way == "joined" else _biased
    mixed = mix(q, k, v, by_row, by_column, module.scale)
    together = mixed.transpose(1, 2).reshape(batch, height, width, -1)
    return module.proj(together)  # type: ignore[no-any-return]


def relative(table: Tensor, size: int) -> Tensor:
    """`get_rel_pos(size, size, table)`, without an index that comes from the host."""
    length = 2 * size - 1
    if len(table) != length:
        table = F.interpolate(table.T[None], size=length, mode="linear")[0].T
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place[None, :] + size - 1]


def _joined(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor, scale: float) -> Tensor:
    """`BxNxTxC` each, `BxNxTxH` and `BxNxTxW` -> `BxNxTxC`."""
    depth, height, width = q.shape[-1], by_row.shape[-1], by_column.shape[-1]
    wide = depth + height + width
    missing = -wide % _MULTIPLE
    like = {"dtype": q.dtype, "device": q.device}
    of_row = torch.eye(height, **like).repeat_interleave(width, 0)  # type: ignore[call-overload]
    of_column = torch.eye(width, **like).repeat(height, 1)  # type: ignore[call-overload]
    places = F.pad(torch.cat((of_row, of_column), 1), (0, missing)).expand(*k.shape[:-1], -1)
    queries = torch.cat((q, by_row, by_column), -1)
    queries = F.pad(queries, (0, missing)) if missing else queries
    keys = torch.cat((k, places), -1)
    # Values as wide as the keys: the fastest kernels want it so.
    values = F.pad(v, (0, wide + missing - depth))
    return F.scaled_dot_product_attention(queries, keys, values, scale=scale)[..., :depth]


def _biased(q: Tensor, k: Tensor, v: Tensor, by_row: Tensor, by_column: Tensor, scale: float) -> Tensor:
    """The same; a few images at a time, as the sums take as much memory as the maps."""
    tokens = q.shape[2]
    step = max(1, _MAX_BIAS_BYTES // (q.shape[1] * tokens * tokens * q.element_size()))
    mixed = []
    for start in range(0, len(q), step):
        part = slice(start, start + step)
        sums = (by_row[part][..., :, None] + by_column[part][..., None, :]).flatten(-2) * scale
        mixed.append(F.scaled_dot_product_attention(q[part], k[part], v[part], attn_mask=sums, scale=scale))
    return torch.cat(mixed)
