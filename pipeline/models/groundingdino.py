"""GroundingDINO's forward pass in parts, on the modules of an official model (`groundingdino_build.build`).

The parts let tests compare what lies before the top-k with the official code, and let training see every layer.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(slots=True)
class TextBatch:
    """Captions of a batch, padded to the longest, L tokens.

    Attributes:
        input_ids: `BxL` int64.
        token_mask: `BxL` bool, False on padding.
        self_attention: `BxLxL` bool, block-diagonal: a class sees itself and its closing `.` only.
        position_ids: `BxL` int64, counted from 0 within each class.
    """

    input_ids: Tensor
    token_mask: Tensor
    self_attention: Tensor
    position_ids: Tensor

    def to(self, device: torch.device | str) -> TextBatch:
        return TextBatch(
            self.input_ids.to(device),
            self.token_mask.to(device),
            self.self_attention.to(device),
            self.position_ids.to(device),
        )


def text_batch(token_ids: list[tuple[int, ...]], separators: frozenset[int], pad_id: int) -> TextBatch:
    """The masks and positions of `generate_masks_with_special_tokens_and_transfer_map`, row by row.

    Args:
        token_ids: captions as `[CLS] ... . ... . [SEP]`.
        separators: the ids of `[CLS]`, `[SEP]`, `.` and `?`.
        pad_id: the id of `[PAD]`.
    """
    length = max(len(ids) for ids in token_ids)
    input_ids = torch.full((len(token_ids), length), pad_id, dtype=torch.int64)
    token_mask = torch.zeros((len(token_ids), length), dtype=torch.bool)
    self_attention = torch.eye(length, dtype=torch.bool).repeat(len(token_ids), 1, 1)
    position_ids = torch.zeros((len(token_ids), length), dtype=torch.int64)
    for row, ids in enumerate(token_ids):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        token_mask[row, : len(ids)] = True
        start = 1
        for col in range(1, len(ids)):
            if ids[col] in separators:
                self_attention[row, start : col + 1, start : col + 1] = True
                position_ids[row, start : col + 1] = torch.arange(col + 1 - start)
                start = col + 1
    return TextBatch(input_ids, token_mask, self_attention, position_ids)


@dataclass(slots=True)
class Memory:
    """What the feature enhancer made of a batch. `S` is the number of image tokens over all levels.

    Attributes:
        image: `BxSxC`.
        text: `BxLxC`.
        padding: `BxS` bool, True on padding.
        pos: `BxSxC`.
        spatial_shapes: `(levels, 2)` int64, `(height, width)`, on the CPU.
        level_start: `(levels,)` int64, on the CPU.
        valid_ratios: `Bxlevelsx2`.
        token_mask: `BxL` bool.
    """

    image: Tensor
    text: Tensor
    padding: Tensor
    pos: Tensor
    spatial_shapes: Tensor
    level_start: Tensor
    valid_ratios: Tensor
    token_mask: Tensor

    @property
    def text_dict(self) -> dict[str, Tensor]:
        """The names under which the official heads read the text."""
        return {"encoded_text": self.text, "text_token_mask": self.token_mask}


def encode(model: Any, images: Tensor, padding: Tensor, text: TextBatch, image_of: Tensor | None = None) -> Memory:
    """Backbone, BERT and feature enhancer: `GroundingDINO.forward` up to the end of `Transformer.encoder`.

    Args:
        images: `Nx3xHxW` float32, normalised, zero on padding.
        padding: `NxHxW` bool, True on padding.
        text: the captions, B of them.
        image_of: `B` int64, the image that each caption is about; None where the n-th caption is about the n-th image.
            The backbone does not read the text, so it runs once an image, however many captions there are.
    """
    bert = model.bert(text.input_ids, attention_mask=text.self_attention, position_ids=text.position_ids)
    encoded_text = model.feat_map(bert["last_hidden_state"])
    maps, masks, positions = _feature_maps(model, images, padding)
    if image_of is not None:
        maps, masks, positions = ([level[image_of] for level in levels] for levels in (maps, masks, positions))

    transformer = model.transformer
    shapes = [tuple(m.shape[-2:]) for m in maps]
    spatial_shapes = torch.as_tensor(shapes, dtype=torch.int64)  # not on a GPU: whoever reads it would wait for it
    level_start = torch.cat((spatial_shapes.new_zeros((1,)), spatial_shapes.prod(1).cumsum(0)[:-1]))
    valid_ratios = torch.stack([transformer.get_valid_ratio(m) for m in masks], 1)
    image = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
    flat_padding = torch.cat([m.flatten(1) for m in masks], 1)
    pos = torch.cat([p.flatten(2).transpose(1, 2) + transformer.level_embed[i] for i, p in enumerate(positions)], 1)
    # Given B masks, a text layer repeats them as (head, caption), and its attention reads (caption, head): in a batch
    # the heads of one caption would wear another's mask. Masks repeated here, in the right order, it takes as they are.
    heads = transformer.encoder.text_layers[0].nhead
    memory_image, memory_text = transformer.encoder(
        image,
        pos=pos,
        level_start_index=level_start,
        spatial_shapes=spatial_shapes,
        valid_ratios=valid_ratios,
        key_padding_mask=flat_padding,
        memory_text=encoded_text,
        text_attention_mask=~text.token_mask,
        position_ids=text.position_ids,
        text_self_attention_masks=text.self_attention.repeat_interleave(heads, 0),
    )
    return Memory(
        memory_image, memory_text, flat_padding, pos, spatial_shapes, level_start, valid_ratios, text.token_mask
    )


def _feature_maps(model: Any, images: Tensor, padding: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """For each level the projected features `NxCxhxw`, their padding `Nxhxw` and their positions `NxCxhxw`."""
    nested = importlib.import_module("groundingdino.util.misc").NestedTensor
    features, positions = model.backbone(nested(images, padding))
    maps: list[Tensor] = []
    masks: list[Tensor] = []
    for level, feature in enumerate(features):
        tensor, mask = feature.decompose()
        maps.append(model.input_proj[level](tensor))
        masks.append(mask)
    for level in range(len(features), model.num_feature_levels):
        maps.append(model.input_proj[level](features[-1].tensors if level == len(features) else maps[-1]))
        masks.append(nn.functional.interpolate(padding[None].float(), size=maps[-1].shape[-2:]).to(torch.bool)[0])
        positions.append(model.backbone[1](nested(maps[-1], masks[-1])).to(maps[-1].dtype))
    return maps, masks, positions


def propose(model: Any, memory: Memory) -> tuple[Tensor, Tensor]:
    """Scores and boxes of every image token, before the top-k (`Transformer.forward`, two-stage part).

    Returns:
        `BxSxT` logits (`-inf` on padded tokens) and `BxSx4` boxes before the sigmoid, normalised `cxcywh`.
    """
    transformer = model.transformer
    modeling = importlib.import_module("groundingdino.models.GroundingDINO.transformer")
    output, proposals = modeling.gen_encoder_output_proposals(memory.image, memory.padding, memory.spatial_shapes)
    output = transformer.enc_output_norm(transformer.enc_output(output))
    logits = transformer.enc_out_class_embed(output, memory.text_dict)
    return logits, transformer.enc_out_bbox_embed(output) + proposals


def top_queries(model: Any, logits: Tensor) -> Tensor:
    """`BxQ` int64: the image tokens that start a query, best first; all of them where the image has fewer than Q."""
    best = logits.max(-1)[0]
    return torch.topk(best, min(model.num_queries, best.shape[1]), dim=1)[1]


def decode(model: Any, memory: Memory, boxes: Tensor, queries: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The cross-modality decoder on the chosen queries.

    Args:
        boxes: `BxSx4` from `propose`.
        queries: `BxQ` from `top_queries`.

    Returns:
        for each layer, `BxQxT` logits and `BxQx4` boxes, `cxcywh` as shares of the image without its padding.
    """
    transformer = model.transformer
    reference = torch.gather(boxes, 1, queries[..., None].expand(-1, -1, 4)).detach()
    target = transformer.tgt_embed.weight[None, : queries.shape[1]].expand(len(queries), -1, -1)
    states, references = transformer.decoder(
        tgt=target.transpose(0, 1),
        memory=memory.image.transpose(0, 1),
        memory_key_padding_mask=memory.padding,
        pos=memory.pos.transpose(0, 1),
        refpoints_unsigmoid=reference.transpose(0, 1),
        level_start_index=memory.level_start,
        spatial_shapes=memory.spatial_shapes,
        valid_ratios=memory.valid_ratios,
        memory_text=memory.text,
        text_attention_mask=~memory.token_mask,
    )
    inverse_sigmoid = importlib.import_module("groundingdino.util.misc").inverse_sigmoid
    logits = [head(state, memory.text_dict) for head, state in zip(model.class_embed, states, strict=True)]
    out_boxes = [
        (head(state) + inverse_sigmoid(before)).sigmoid()
        for head, state, before in zip(model.bbox_embed, states, references[:-1], strict=True)
    ]
    return logits, out_boxes
