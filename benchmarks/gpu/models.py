"""The models of the benchmark: official classes with weights drawn at random, and copies with ours in them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from groundingdino.models.GroundingDINO.ms_deform_attn import MultiScaleDeformableAttention
from torch import nn

from pipeline.bundle import OFFICIAL_VOCABULARY, Bundle, resolve
from pipeline.models import groundingdino_build, onednn, sam
from pipeline.models.architectures import (
    DetectorArchitecture,
    SegmenterArchitecture,
    detector_architecture,
    segmenter_architecture,
)
from tests.pipeline.judge import bert_tokenizer
from tests.pipeline.redraw import redraw

TEXTS = ("traffic light", "wheel", "dog")
TINY_TEXTS = ("red circle", "star")


@dataclass(frozen=True)
class Scene:
    """What all stages share.

    Attributes:
        tiny: the embedded architectures on small pictures: a look at whether everything runs.
        seconds: of measuring, for each arm.
    """

    device: str
    tiny: bool
    seconds: float

    @property
    def photo_size(self) -> tuple[int, int]:
        return (96, 128) if self.tiny else (1200, 1600)

    @property
    def detector_size(self) -> tuple[int, int]:
        """Of the image for the detector alone; as it is resized, too."""
        return (160, 192) if self.tiny else (800, 1333)

    @property
    def texts(self) -> tuple[str, ...]:
        return TINY_TEXTS if self.tiny else TEXTS

    @property
    def batches(self) -> tuple[int, ...]:
        return (1, 2) if self.tiny else (1, 4, 8)

    @property
    def many(self) -> int:
        """Images of a pipeline run."""
        return 2 if self.tiny else 32


def official_sam(scene: Scene, name: str) -> tuple[Any, SegmenterArchitecture]:
    """`name` is `vit_b`, `vit_l`, `vit_h`, or with a tiny scene any."""
    arch = segmenter_architecture("sam-tiny" if scene.tiny else f"sam-{name.replace('_', '-')}")
    torch.manual_seed(1)
    with torch.device(scene.device):  # 637 million draws take a while on a CPU
        model = sam.build(arch)
    redraw(model, seed=1)
    return as_installed(model.to(scene.device)), arch


def official_detector(scene: Scene) -> tuple[Any, DetectorArchitecture, Bundle]:
    arch = detector_architecture("groundingdino-tiny" if scene.tiny else "groundingdino-swint-ogc")
    torch.manual_seed(3)
    model: Any = groundingdino_build.build(arch)
    redraw(model, seed=3)
    bundle = resolve("tiny", "detector")
    if not scene.tiny:
        bundle = Bundle("random", "detector", "groundingdino-swint-ogc", Path(), "", OFFICIAL_VOCABULARY)
    tokenizer = bert_tokenizer(bundle.vocabulary or OFFICIAL_VOCABULARY)
    model.tokenizer = tokenizer  # its own forward pass reads these two
    model.specical_tokens = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"])
    return as_installed(model.to(scene.device)), arch, bundle


def as_installed(model: Any) -> Any:
    """The published classes: takes back what our builders put in their place."""
    for module in model.modules():
        kind: Any = type(module)
        if kind is onednn.Linear:
            module.__class__ = nn.Linear
        elif issubclass(kind, MultiScaleDeformableAttention):
            module.__class__ = MultiScaleDeformableAttention
    return model


def ours(model: Any) -> Any:
    """A copy with our classes in it."""
    from pipeline.models.deformable import DeformableAttention

    model = copy.deepcopy(model)
    for module in model.modules():
        if type(module) is MultiScaleDeformableAttention:
            module.__class__ = DeformableAttention
    onednn.install(model)
    return model
