"""Hyper-parameters of every model that a bundle can name. No torch here.

The official values are those of `groundingdino/config/GroundingDINO_SwinT_OGC.py`, `GroundingDINO_SwinB_cfg.py` and
`segment_anything/build_sam.py`; names are the official ones. The `tiny` models are the same classes, only smaller.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SwinArchitecture:
    """Swin Transformer backbone (arXiv 2103.14030), features at strides 8, 16 and 32."""

    embed_dim: int
    depths: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int]
    window_size: int
    pretrain_img_size: int = 224


@dataclass(frozen=True, slots=True)
class BertArchitecture:
    """BERT text encoder; the defaults are bert-base-uncased."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512


@dataclass(frozen=True, slots=True)
class DetectorArchitecture:
    """GroundingDINO (arXiv 2303.05499).

    Attributes:
        short_side, long_side: the image is resized so that its shorter side is `short_side`, unless its longer side
            would then exceed `long_side`.
        pad_multiple: the resized image is padded up to this multiple of pixels on both sides; 1 is `exact`. The padded
            shape is a function of the image alone, so that a result does not depend on its batch-mates.
    """

    backbone: SwinArchitecture
    bert: BertArchitecture = BertArchitecture()
    hidden_dim: int = 256
    nheads: int = 8
    enc_layers: int = 6
    dec_layers: int = 6
    dim_feedforward: int = 2048
    num_queries: int = 900
    num_feature_levels: int = 4
    enc_n_points: int = 4
    dec_n_points: int = 4
    fusion_droppath: float = 0.1
    short_side: int = 800
    long_side: int = 1333
    pad_multiple: int = 1


@dataclass(frozen=True, slots=True)
class SegmenterArchitecture:
    """SAM (arXiv 2304.02643). `image_size` is the side of the square model input; embeddings are `out_chans` deep."""

    embed_dim: int
    depth: int
    num_heads: int
    global_attn_indexes: tuple[int, ...]
    image_size: int = 1024
    patch_size: int = 16
    window_size: int = 14
    out_chans: int = 256
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_head_hidden_dim: int = 256

    @property
    def embedding_size(self) -> int:
        """Side S of the `(C, S, S)` embedding."""
        return self.image_size // self.patch_size


ARCHITECTURES: dict[str, DetectorArchitecture | SegmenterArchitecture] = {
    "groundingdino-swint-ogc": DetectorArchitecture(
        backbone=SwinArchitecture(96, (2, 2, 6, 2), (3, 6, 12, 24), window_size=7),
    ),
    "groundingdino-swinb-cogcoor": DetectorArchitecture(
        backbone=SwinArchitecture(128, (2, 2, 18, 2), (4, 8, 16, 32), window_size=12, pretrain_img_size=384),
    ),
    "groundingdino-tiny": DetectorArchitecture(
        backbone=SwinArchitecture(32, (2, 2, 4, 1), (2, 4, 8, 8), window_size=8, pretrain_img_size=160),
        bert=BertArchitecture(64, 128, 2, 4, 512, 64),
        enc_layers=2,
        dec_layers=2,
        dim_feedforward=512,
        num_queries=100,
        num_feature_levels=3,
        fusion_droppath=0.0,
        short_side=160,
        long_side=640,
        pad_multiple=32,
    ),
    "sam-vit-b": SegmenterArchitecture(768, 12, 12, (2, 5, 8, 11)),
    "sam-vit-l": SegmenterArchitecture(1024, 24, 16, (5, 11, 17, 23)),
    "sam-vit-h": SegmenterArchitecture(1280, 32, 16, (7, 15, 23, 31)),
    "sam-tiny": SegmenterArchitecture(
        128,
        4,
        4,
        (2,),
        image_size=384,
        patch_size=8,
        window_size=12,
        out_chans=128,
        decoder_heads=4,
        decoder_mlp_dim=512,
        iou_head_hidden_dim=128,
    ),
}


def detector_architecture(name: str) -> DetectorArchitecture:
    """The detector hyper-parameters called `name`. Raises KeyError where `name` is not a detector's."""
    architecture = ARCHITECTURES[name]
    if not isinstance(architecture, DetectorArchitecture):
        raise KeyError(name)
    return architecture


def segmenter_architecture(name: str) -> SegmenterArchitecture:
    """The segmenter hyper-parameters called `name`. Raises KeyError where `name` is not a segmenter's."""
    architecture = ARCHITECTURES[name]
    if not isinstance(architecture, SegmenterArchitecture):
        raise KeyError(name)
    return architecture
