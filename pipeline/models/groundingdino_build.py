"""GroundingDINO on the classes of `groundingdino-py`: construction without cv2 or a hub.

`groundingdino.models.GroundingDINO.groundingdino` imports a visualizer (cv2, matplotlib) that is never used, asks a hub
for BERT when constructed, and wraps it in a `BertModelWarper` that transformers 5 breaks. Here the visualizer is a
stand-in, BERT is built from its hyper-parameters, and the published block-diagonal text mask goes to a plain
`BertModel` as a 4-D additive float mask, which is exactly equal.
"""

from __future__ import annotations

import importlib
import sys
import threading
import types
import warnings
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from pipeline.models import onednn
from pipeline.models.architectures import BertArchitecture, DetectorArchitecture

_construction = threading.Lock()

# What the official code provokes, the second in every layer of the decoder, and nobody who runs it can mend.
_OFFICIAL_WARNINGS: tuple[tuple[type[Warning], str, str], ...] = (
    (FutureWarning, r"Importing from timm\.models\.layers is deprecated", ""),
    (FutureWarning, r"`torch\.cuda\.amp\.autocast\(args\.\.\.\)` is deprecated", r"groundingdino\."),
    (UserWarning, r"torch\.meshgrid: in an upcoming release", r"torch\.functional"),
)


def _ignore_official_warnings() -> None:
    """Adds narrow filters, for the whole process and for good: `catch_warnings` around a call would not be thread-safe.

    Harmless to repeat: a filter that is there already only moves to the front.
    """
    for category, message, module in _OFFICIAL_WARNINGS:
        warnings.filterwarnings("ignore", message, category, module)


class TextEncoder(BertModel):
    """`BertModel` that takes the published `BxLxL` boolean mask (True: may attend) of `bertwarper.py`."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, **kwargs: Any) -> Any:
        additive = torch.zeros(attention_mask.shape, dtype=self.dtype, device=attention_mask.device)
        additive.masked_fill_(~attention_mask, torch.finfo(self.dtype).min)
        return super().forward(
            input_ids=input_ids,
            attention_mask=additive[:, None],
            position_ids=position_ids,
            token_type_ids=torch.zeros_like(input_ids),
        )


class _SpecialTokens:
    """Stands in for a tokenizer while `GroundingDINO.__init__` asks for four special ids that this package ignores."""

    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]:
        return [-1] * len(tokens)


def official_module() -> Any:
    """`groundingdino.models.GroundingDINO.groundingdino`, imported without cv2 and matplotlib."""
    name = "groundingdino.util.visualizer"
    if name not in sys.modules:
        stand_in = types.ModuleType(name)
        stand_in.COCOVisualizer = None  # type: ignore[attr-defined]
        sys.modules[name] = stand_in
    _ignore_official_warnings()
    return importlib.import_module("groundingdino.models.GroundingDINO.groundingdino")


def _text_encoder(bert: BertArchitecture) -> TextEncoder:
    config = BertConfig(  # type: ignore[call-arg]  # attn_implementation is of its base class
        vocab_size=bert.vocab_size,
        hidden_size=bert.hidden_size,
        num_hidden_layers=bert.num_hidden_layers,
        num_attention_heads=bert.num_attention_heads,
        intermediate_size=bert.intermediate_size,
        max_position_embeddings=bert.max_position_embeddings,
        attn_implementation="sdpa",
    )
    return TextEncoder(config)


def _backbone(arch: DetectorArchitecture) -> nn.Module:
    official_module()
    backbone = importlib.import_module("groundingdino.models.GroundingDINO.backbone.backbone")
    positions = importlib.import_module("groundingdino.models.GroundingDINO.backbone.position_encoding")
    swin = importlib.import_module("groundingdino.models.GroundingDINO.backbone.swin_transformer")
    body = swin.SwinTransformer(
        pretrain_img_size=arch.backbone.pretrain_img_size,
        embed_dim=arch.backbone.embed_dim,
        depths=list(arch.backbone.depths),
        num_heads=list(arch.backbone.num_heads),
        window_size=arch.backbone.window_size,
        out_indices=(1, 2, 3),
        drop_path_rate=0.0,
        use_checkpoint=False,
    )
    position = positions.PositionEmbeddingSineHW(arch.hidden_dim // 2, temperatureH=20, temperatureW=20, normalize=True)
    joiner = backbone.Joiner(body, position)
    joiner.num_channels = body.num_features[1:]
    return joiner  # type: ignore[no-any-return]


def build(arch: DetectorArchitecture) -> nn.Module:
    """A randomly initialised official `GroundingDINO` in evaluation mode; nothing is fetched.

    Its state-dict keys are those of the published checkpoints, its own `forward` runs once a tokenizer is set.
    """
    official = official_module()
    transformer = importlib.import_module("groundingdino.models.GroundingDINO.transformer").Transformer(
        d_model=arch.hidden_dim,
        dropout=0.0,
        nhead=arch.nheads,
        num_queries=arch.num_queries,
        dim_feedforward=arch.dim_feedforward,
        num_encoder_layers=arch.enc_layers,
        num_decoder_layers=arch.dec_layers,
        return_intermediate_dec=True,
        num_feature_levels=arch.num_feature_levels,
        enc_n_points=arch.enc_n_points,
        dec_n_points=arch.dec_n_points,
        learnable_tgt_init=True,
        two_stage_type="standard",
        embed_init_tgt=True,
        use_text_enhancer=True,
        use_fusion_layer=True,
        use_text_cross_attention=True,
        text_dropout=0.0,
        fusion_dropout=0.0,
        fusion_droppath=arch.fusion_droppath,
    )
    # The names are patched only while __init__ runs, under a lock: construction is rare, the patch is process-wide.
    with (
        _construction,
        mock.patch.object(official.get_tokenlizer, "get_tokenlizer", lambda _: _SpecialTokens()),
        mock.patch.object(official.get_tokenlizer, "get_pretrained_language_model", lambda _: _text_encoder(arch.bert)),
        mock.patch.object(official, "BertModelWarper", lambda bert_model: bert_model),
    ):
        model = official.GroundingDINO(
            _backbone(arch),
            transformer,
            num_queries=arch.num_queries,
            aux_loss=True,
            iter_update=True,
            query_dim=4,
            num_feature_levels=arch.num_feature_levels,
            nheads=arch.nheads,
            dec_pred_bbox_embed_share=True,
            two_stage_type="standard",
            two_stage_bbox_embed_share=False,
            two_stage_class_embed_share=False,
        )
    deformable = importlib.import_module("pipeline.models.deformable")  # imports groundingdino, as above
    for module in transformer.modules():
        if type(module).__name__ == "MultiScaleDeformableAttention":
            module.__class__ = deformable.DeformableAttention
    onednn.install(model)
    return model.eval()  # type: ignore[no-any-return]
