"""GroundingDINO for a GPU, or in a lower precision: what may be less precise, and attention that can take it.

In the lower type: backbone, feature maps, and of encoder, fusion and decoder the layers that every image token passes.
Float32: everything that ends in a place (sampling offsets and their weights, reference points, boxes), scores, the
text, norms, and the sums along the model. Of 812 GFLOP at 800x1333 this leaves about a tenth in float32.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models import precision

_LOWERED = re.compile(
    r"backbone\.0\."
    r"|input_proj\."
    r"|transformer\.encoder\.layers\.\d+\.(self_attn\.(value|output)_proj|linear[12])$"
    r"|transformer\.encoder\.fusion_layers\.\d+\.attn\."
    r"|transformer\.decoder\.layers\.\d+\.(cross_attn\.(value|output)_proj|linear[12])$"
)


def install(model: Any, dtype: torch.dtype) -> None:
    """Of an official `GroundingDINO`, in place; `dtype` may be float32, which leaves fused attention alone."""
    for module in model.modules():
        official: Any = type(module)
        if official.__name__ == "WindowAttention":
            module.__class__ = _windowed(official)
        elif official.__name__ == "BiMultiHeadAttention":
            module.__class__ = _fusing(official)
    precision.lower(model, dtype, lambda name: _LOWERED.match(name) is not None)


@cache
def _windowed(base: Any) -> type[nn.Module]:
    """Swin's attention, by a fused kernel. The official class is imported late, hence made here."""

    class FusedWindowAttention(base):  # type: ignore[misc]
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            """As the official one: `(B*windows)xNxC`, and `windows x N x N` to add, 0 or -100."""
            rows, tokens, channels = x.shape
            heads = self.num_heads
            q, k, v = self.qkv(x).reshape(rows, tokens, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
            table = self.relative_position_bias_table[self.relative_position_index.view(-1)]
            bias = table.view(tokens, tokens, heads).permute(2, 0, 1)
            windows = 1 if mask is None else len(mask)
            if mask is not None:  # the windows of one image beside its heads: one sum serves all images
                bias = (bias[None] + mask[:, None]).flatten(0, 1)
            q, k, v = (one.reshape(rows // windows, windows * heads, tokens, -1) for one in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)[None], scale=self.scale)
            together = mixed.reshape(rows, heads, tokens, -1).transpose(1, 2).reshape(rows, tokens, channels)
            return self.proj(together)  # type: ignore[no-any-return]

    return FusedWindowAttention


@cache
def _fusing(base: Any) -> type[nn.Module]:
    """Image to text and back. The products in the lower type, the softmaxes, with the official bounds, in float32."""

    class FusedBiAttention(base):  # type: ignore[misc]
        def forward(
            self,
            v: Tensor,
            l: Tensor,  # noqa: E741  # the official name
            attention_mask_v: Tensor | None = None,
            attention_mask_l: Tensor | None = None,
        ) -> tuple[Tensor, Tensor]:
            """As the official one: `BxSxC` and `BxLxC`; masks are True where there is nothing to see."""

            def heads(x: Tensor) -> Any:
                return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

            def whole(x: Tensor) -> Tensor:
                return x.transpose(1, 2).flatten(2)

            queries, keys = heads(self.v_proj(v) * self.scale), heads(self.l_proj(l))
            values_v, values_l = heads(self.values_v_proj(v)), heads(self.values_l_proj(l))
            maps = (queries @ keys.transpose(-2, -1)).float()  # BxNxSxL
            maps = (maps - maps.max()).clamp_(-50000, 50000)
            back = maps.transpose(-2, -1)
            back = (back - back.amax(-1, keepdim=True)).clamp_(-50000, 50000)
            if attention_mask_v is not None:
                back = back.masked_fill_(attention_mask_v[:, None, None], float("-inf"))
            if attention_mask_l is not None:
                maps = maps.masked_fill_(attention_mask_l[:, None, None], float("-inf"))
            to_image = maps.softmax(-1).to(values_l.dtype) @ values_l
            to_text = back.softmax(-1).to(values_v.dtype) @ values_v
            return self.out_v_proj(whole(to_image)), self.out_l_proj(whole(to_text))

    return FusedBiAttention
