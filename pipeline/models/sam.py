"""SAM on the classes of `segment-anything`."""

from __future__ import annotations

from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.image_encoder import Attention, Block, get_rel_pos
from torch import Tensor

from pipeline.models import onednn
from pipeline.models.architectures import SegmenterArchitecture

_MAX_ATTENTION_BYTES = 2**28  # of attention maps at a time: four of 64x64 tokens to as many


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


def encode_images(encoder: ImageEncoderViT, images: Tensor) -> Tensor:
    """`ImageEncoderViT.forward` in less memory.

    The official global attention holds three copies of all heads' maps at once: 2.4 GB for one image and ViT-B. Here
    a few heads take their turn.

    Args:
        images: `Bx3xNxN`, normalised.

    Returns:
        `BxCxSxS` features.
    """
    x = encoder.patch_embed(images) + encoder.pos_embed
    for block in encoder.blocks:
        x = block(x) if block.window_size > 0 else _global_block(block, x)
    features: Tensor = encoder.neck(x.permute(0, 3, 1, 2))
    return features


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
    step = _heads_at_a_time(q)
    for start in range(0, len(q), step):
        part = slice(start, start + step)
        maps = onednn.products(q[part] * attention.scale, k[part])
        grid, queries = maps.view(-1, height, width, height, width), q[part].reshape(-1, height, width, q.shape[-1])
        grid += torch.einsum("bhwc,hkc->bhwk", queries, rows)[..., :, None]
        grid += torch.einsum("bhwc,wkc->bhwk", queries, columns)[..., None, :]
        mixed[part] = onednn.products(maps.softmax(dim=-1), v[part].transpose(-2, -1))
    together = mixed.view(batch, heads, height, width, -1).permute(0, 2, 3, 1, 4).reshape(batch, height, width, -1)
    projected: Tensor = attention.proj(together)
    return projected


def _heads_at_a_time(q: Tensor) -> int:
    """On a CPU one, as oneDNN takes them; elsewhere as many as fit, as each pass there is a few launches."""
    if q.device.type == "cpu":
        return 1
    return max(1, _MAX_ATTENTION_BYTES // (q.shape[1] ** 2 * q.element_size()))


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
    count = decoder.num_mask_tokens
    output_tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat((output_tokens.expand(len(sparse), -1, -1), sparse), dim=1)
    src = embeddings[image_index] + dense
    batch, channels, side, _ = src.shape
    pos = pe.expand(batch, -1, -1, -1)
    states, src = decoder.transformer(src, pos, tokens)
    upscaled = decoder.output_upscaling(src.transpose(1, 2).view(batch, channels, side, side))
    hyper = torch.stack([mlp(states[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1)
    masks = (hyper @ upscaled.flatten(2)).view(batch, count, *upscaled.shape[-2:])
    return masks, decoder.iou_prediction_head(states[:, 0])
