"""SAM on the classes of `segment-anything`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.image_encoder import Attention, Block, get_rel_pos
from torch import Tensor

from pipeline.models import onednn, sam_attention
from pipeline.models.architectures import SegmenterArchitecture

_HEADS = 1  # of an attention map at a time, as oneDNN takes them


def build(arch: SegmenterArchitecture) -> Sam:
    """A randomly initialised official `Sam` in evaluation mode (`segment_anything.build_sam._build_sam`, by size)."""
    side = arch.embedding_size
    sam = Sam(
        image_encoder=ImageEncoderViT(
            depth=arch.depth,
            embed_dim=arch.embed_dim,
            img_size=arch.image_size,
            mlp_ratio=4,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=arch.num_heads,
            patch_size=arch.patch_size,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=arch.global_attn_indexes,
            window_size=arch.window_size,
            out_chans=arch.out_chans,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=arch.out_chans,
            image_embedding_size=(side, side),
            input_image_size=(arch.image_size, arch.image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=arch.decoder_depth,
                embedding_dim=arch.out_chans,
                mlp_dim=arch.decoder_mlp_dim,
                num_heads=arch.decoder_heads,
            ),
            transformer_dim=arch.out_chans,
            iou_head_depth=3,
            iou_head_hidden_dim=arch.iou_head_hidden_dim,
        ),
    )
    onednn.install(sam)
    return sam.eval()


def encode_images(
    encoder: ImageEncoderViT,
    images: Tensor,
    way: sam_attention.Way | None = None,
    block: Callable[[Block, Tensor, sam_attention.Way], Tensor] | None = None,
) -> Tensor:
    """`ImageEncoderViT.forward` in less memory, and on a GPU or in a lower precision by fused kernels.

    The official global attention holds three copies of all heads' maps at once: 2.4 GB for one image and ViT-B. On a
    CPU a few heads take their turn.

    Args:
        images: `Bx3xNxN`, normalised.
        way: how relative positions enter fused kernels; None: as above on a CPU in float32, else `joined`.
        block: what computes a block there; None: `sam_attention.block`.

    Returns:
        `BxCxSxS` features, float32.
    """
    x = encoder.patch_embed(images) + encoder.pos_embed
    fused = way is not None or block is not None or not images.is_cpu or encoder.neck[0].weight.dtype != torch.float32
    for one in encoder.blocks:
        if fused:
            x = (block or sam_attention.block)(one, x, way or "joined")
        else:
            x = one(x) if one.window_size > 0 else _global_block(one, x)
    features: Tensor = encoder.neck(x.permute(0, 3, 1, 2))
    return features.float()


def compiled(encoder: ImageEncoderViT) -> Callable[[Tensor], Tensor]:
    """`encode_images` with compiled blocks. The first call with a batch size compiles the two kinds of block, once each
    however many there are."""
    config = torch._dynamo.config
    config.recompile_limit = max(64, config.recompile_limit)
    return partial(encode_images, encoder, block=torch.compile(sam_attention.block, dynamic=False))


def _global_block(block: Block, x: Tensor) -> Tensor:
    """`Block.forward` of a block without windows, `BxHxWxD`."""
    x = x + _attention(block.attn, block.norm1(x))
    return x + block.mlp(block.norm2(x))  # type: ignore[no-any-return]


def _attention(attention: Attention, x: Tensor) -> Tensor:
    """`Attention.forward` with `add_decomposed_rel_pos`, `BxHxWxD`."""
    batch, height, width, _ = x.shape
    tokens, heads = height * width, attention.num_heads
    qkv = attention.qkv(x).reshape(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.reshape(3, batch * heads, tokens, -1).unbind(0)
    rows = get_rel_pos(height, height, attention.rel_pos_h)
    columns = get_rel_pos(width, width, attention.rel_pos_w)
    mixed = torch.empty_like(q)
    for start in range(0, len(q), _HEADS):
        part = slice(start, start + _HEADS)
        maps = onednn.products(q[part] * attention.scale, k[part])
        grid, queries = maps.view(-1, height, width, height, width), q[part].reshape(-1, height, width, q.shape[-1])
        grid += torch.einsum("bhwc,hkc->bhwk", queries, rows)[..., :, None]
        grid += torch.einsum("bhwc,wkc->bhwk", queries, columns)[..., None, :]
        mixed[part] = onednn.products(maps.softmax(dim=-1), v[part].transpose(-2, -1))
    together = mixed.view(batch, heads, height, width, -1).permute(0, 2, 3, 1, 4).reshape(batch, height, width, -1)
    projected: Tensor = attention.proj(together)
    return projected
