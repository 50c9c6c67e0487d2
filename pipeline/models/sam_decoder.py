"""SAM's mask decoder for prompts of many images, on the classes of `segment-anything`.

A prompt has a handful of tokens, an image 4,096. `MaskDecoder` projects all of the image's to queries, keys and values
of every attention, for each prompt anew. Attention is linear on both sides of its softmax, so the projections can be
taken to the tokens instead: with a head's `W_q` and `W_k`, `(x W_q) (y W_k)^T = (x W_q W_k^T) y^T`, and likewise for
values and output. What is left for the image's side is a product with `heads x tokens` columns, 56 of them for a box,
where a projection has 128. Transposed convolutions of 2x2 and stride 2 do not overlap: they are linear layers too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn

from pipeline.models import onednn

_CACHED_BYTES = 2**22  # on a CPU, of the image's side at a time: more leaves the cache between two steps


def predict_masks(
    decoder: MaskDecoder, embeddings: Tensor, image_index: Tensor, pe: Tensor, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """`MaskDecoder.predict_masks` for prompts that belong to different images.

    The official method repeats one image's embedding for all of its prompts; here each prompt names its image.

    Args:
        embeddings: `BxCxSxS`.
        image_index: `(N,)` int64, the image of each prompt.
        pe: `1xCxSxS`, `PromptEncoder.get_dense_pe`.
        sparse: `NxTxC` point and box embeddings. dense: `NxCxSxS` mask embeddings.

    Returns:
        `Nx4x4Sx4S` logits (the single mask, then the three of `multimask_output`) and `Nx4` predicted IoUs.
    """
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat((output_tokens.expand(len(sparse), -1, -1), sparse), dim=1)
    images, positions, dense = _by_position(embeddings), _by_position(pe), dense.flatten(2).transpose(1, 2)
    parts = []
    step = _prompts_at_a_time(embeddings)
    for start in range(0, max(1, len(tokens)), step):
        part = slice(start, start + step)
        keys = images[image_index[part]] + dense[part]
        states, keys = _transformer(decoder, keys, positions, tokens[part])
        parts.append((_masks(decoder, states, keys), decoder.iou_prediction_head(states[:, 0])))
    masks, quality = (torch.cat(values) if len(values) > 1 else values[0] for values in zip(*parts, strict=True))
    return masks, quality


def _prompts_at_a_time(embeddings: Tensor) -> int:
    if embeddings.device.type != "cpu":
        return 2**31
    return max(1, _CACHED_BYTES // (embeddings[0].numel() * embeddings.element_size()))


def _by_position(x: Tensor) -> Tensor:
    """`BxCxSxS` -> `BxSSxC`. One at a time: torch transposes matrices three times as fast as batches of them."""
    return torch.stack([one.flatten(1).T.contiguous() for one in x])


def _transformer(decoder: MaskDecoder, keys: Tensor, pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """`TwoWayTransformer.forward`: `NxSSxC` of the images and `NxTxC` of the prompts, both transformed."""
    transformer, queries = decoder.transformer, tokens
    with_pe = keys + pe
    for layer in transformer.layers:
        queries = _tokens(layer, queries, tokens, keys, with_pe)
        attended = _image_to_tokens(layer.cross_attn_image_to_token, keys, with_pe, queries + tokens, queries)
        keys = layer.norm4(attended)
        with_pe = keys + pe
    queries = queries + _tokens_to_image(transformer.final_attn_token_to_image, queries + tokens, with_pe, keys)
    return transformer.norm_final_attn(queries), keys


def _tokens(layer: TwoWayAttentionBlock, queries: Tensor, tokens: Tensor, keys: Tensor, with_pe: Tensor) -> Tensor:
    """What `TwoWayAttentionBlock.forward` makes of the tokens."""
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        placed = queries + tokens
        queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
    queries = layer.norm1(queries)
    queries = layer.norm2(queries + _tokens_to_image(layer.cross_attn_token_to_image, queries + tokens, with_pe, keys))
    return layer.norm3(queries + layer.mlp(queries))  # type: ignore[no-any-return]


def _worth(attention: Attention, tokens: Tensor) -> bool:
    """Whether the tokens of all heads are fewer than the channels that the image would be projected to."""
    return attention.num_heads * tokens.shape[1] < attention.internal_dim  # type: ignore[no-any-return]


def _by_heads(attention: Attention, projected: Tensor, weight: Tensor) -> Tensor:
    """`NxTxI` projected tokens and a weight `IxC` of the image's side -> `Nx(heads T)xC`, one product a head."""
    batch, count, _ = projected.shape
    heads = projected.view(batch, count, attention.num_heads, -1)
    rows = torch.einsum("nthd,hdc->nhtc", heads, weight.view(attention.num_heads, -1, weight.shape[1]))
    return rows.reshape(batch, attention.num_heads * count, -1)


def _tokens_to_image(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`Attention.forward` of a few queries over the image's keys and values."""
    if not _worth(attention, q):
        return attention(q=q, k=k, v=v)  # type: ignore[no-any-return]
    batch, count, _ = q.shape
    scale = (attention.internal_dim // attention.num_heads) ** -0.5
    rows = _by_heads(attention, attention.q_proj(q) * scale, attention.k_proj.weight)
    # The keys' bias is left out: it adds the same to all scores of a query, which softmax does not see.
    maps = onednn.products(rows, k.to(rows.dtype)).softmax(dim=-1)
    mixed = (maps @ v.to(rows.dtype)).view(batch, attention.num_heads, count, -1)
    weight = attention.v_proj.weight.view(attention.num_heads, -1, mixed.shape[-1])
    values = torch.einsum("nhtc,hdc->nthd", mixed, weight).reshape(batch, count, -1) + attention.v_proj.bias
    return attention.out_proj(values)  # type: ignore[no-any-return]


def _image_to_tokens(attention: Attention, keys: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`keys` and `Attention.forward` of the image's queries over a few keys and values."""
    if not _worth(attention, k):
        return keys + attention(q=q, k=k, v=v)  # type: ignore[no-any-return]
    batch, count, _ = k.shape
    heads = attention.num_heads
    scale = (attention.internal_dim // heads) ** -0.5
    projected = attention.k_proj(k) * scale
    rows = _by_heads(attention, projected, attention.q_proj.weight)
    offsets = (projected * attention.q_proj.bias).view(batch, count, heads, -1).sum(-1).transpose(1, 2)
    scores = onednn.products(rows, q.to(rows.dtype)).view(batch, heads, count, -1) + offsets[..., None]
    maps = scores.softmax(dim=2).view(batch, heads * count, -1)
    values = _by_heads(attention, attention.v_proj(v), attention.out_proj.weight.T)
    # Of each head the maps sum to one: a bias in the values of one head is a bias of the whole.
    values[:, :count] += attention.out_proj.bias
    return keys + onednn.products(maps.transpose(1, 2), values.transpose(1, 2))


def _masks(decoder: MaskDecoder, states: Tensor, keys: Tensor) -> Tensor:
    """Upscaling, and the product with each mask token's hypernetwork: `NxSSxC` -> `Nx4x4Sx4S`."""
    first, norm, activation, second, last = decoder.output_upscaling
    batch, positions, _ = keys.shape
    side, count = int(positions**0.5), decoder.num_mask_tokens
    x = _spread(first, keys.reshape(batch * positions, -1))
    x = activation(F.layer_norm(x.to(norm.weight.dtype), x.shape[-1:], norm.weight, norm.bias, norm.eps))
    x = last(_spread(second, x)).view(batch, positions * 16, -1)
    hyper = torch.stack([mlp(states[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1)
    # Columns are the image's positions, within each those of the first convolution, and of the second.
    masks = onednn.products(hyper.to(x.dtype), x).view(batch, count, side, side, 2, 2, 2, 2)
    return _by_rows(masks, 4 * side)


def _by_rows(masks: Tensor, side: int) -> Tensor:
    """`NxKxSxSx2x2x2x2`, twice a row and a column within what precedes them, -> `NxKx4Sx4S`."""
    if masks.dtype != torch.float32:
        return masks.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(*masks.shape[:2], side, side)
    # The last two stay neighbours: as one number, they are copied ten times as fast.
    pairs = torch.view_as_complex(masks).permute(0, 1, 2, 4, 6, 3, 5).contiguous()
    return torch.view_as_real(pairs).view(*masks.shape[:2], side, side)


def _spread(convolution: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A 2x2 transposed convolution of stride 2 on rows `PxC`: `4PxD`, the four pixels of a row after each other."""
    weight = convolution.weight.permute(2, 3, 1, 0).reshape(-1, x.shape[-1])
    assert convolution.bias is not None
    return onednn.linear(x.to(weight.dtype), weight, convolution.bias.repeat(4)).view(4 * len(x), -1)
