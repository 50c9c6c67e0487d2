"""Lower precision, and fused attention in any: as near to the official float32 models as it can be, and where it must
be exact, exact."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam
from torch import nn

from pipeline.bundle import resolve
from pipeline.detector import Detector
from pipeline.image_encoder import ImageEncoder
from pipeline.mask_decoder import MaskDecoder
from pipeline.masks import decode
from pipeline.models import groundingdino_build, groundingdino_precision, precision, sam
from pipeline.models.architectures import detector_architecture, segmenter_architecture
from pipeline.stages import DecodeOptions, MaskPrompts
from pipeline.text_to_mask import TextToMask
from tests.pipeline.judge import (
    TOLERANCE,
    bert_tokenizer,
    detector_deviations,
    deviation,
    official_detector,
    padded,
    photo,
    tokenised,
)
from tests.pipeline.redraw import redraw

pytestmark = pytest.mark.usefixtures("one_thread")

LOWER = [("bfloat16", 4e-2), ("float16", 5e-3)]
CAPTION = "red circle . star ."


def random_sam() -> Sam:
    torch.manual_seed(7)
    model = sam.build(ARCH)
    redraw(model, seed=7)
    return model


ARCH = segmenter_architecture("sam-tiny")


@pytest.fixture(scope="module")
def theirs() -> Sam:
    return random_sam()


@pytest.mark.parametrize("way", ["joined", "bias"])
def test_fused_attention_is_the_official_one(theirs: Sam, way: Any) -> None:
    images = torch.randn(2, 3, ARCH.image_size, ARCH.image_size)
    with torch.inference_mode():
        assert deviation(sam.encode_images(theirs.image_encoder, images, way), theirs.image_encoder(images)) <= 1e-6


@pytest.mark.parametrize(("name", "tolerance"), LOWER)
def test_image_encoder(theirs: Sam, name: Any, tolerance: float) -> None:
    encoder = ImageEncoder(copy.deepcopy(theirs), ARCH, precision=name)
    image = photo(210, 330)
    found = encoder.encode(image).features
    assert found.dtype == np.float32
    expected = ImageEncoder(theirs, ARCH).encode(image).features
    assert 1e-5 < deviation(found, expected) <= tolerance  # lower indeed, and not by much
    kinds = {type(module).__mro__[1]: module.weight.dtype for module in encoder.model.modules() if has_weight(module)}
    assert kinds[nn.LayerNorm] == torch.float32
    assert kinds[nn.Conv2d] == getattr(torch, name)


def has_weight(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), nn.Parameter)


@pytest.mark.parametrize(("name", "tolerance"), LOWER)
def test_mask_decoder(theirs: Sam, name: Any, tolerance: float) -> None:
    embedding = ImageEncoder(theirs, ARCH).encode(photo(210, 330))
    prompts = MaskPrompts(boxes=np.array([[30.5, 20, 120, 180.25], [200, 100, 329, 209]], np.float32))
    lower, exact = (
        MaskDecoder(theirs, ARCH, precision=one).decode(embedding, prompts, DecodeOptions(low_res=True))
        for one in (name, "float32")
    )
    assert lower.low_res is not None
    assert exact.low_res is not None
    assert lower.low_res.dtype == np.float32
    assert 1e-6 < deviation(lower.low_res, exact.low_res) <= tolerance
    assert deviation(lower.mask_scores, exact.mask_scores) <= tolerance


@pytest.mark.parametrize(("name", "tolerance"), [("float32", TOLERANCE), *LOWER])
def test_detector_part_by_part(name: str, tolerance: float) -> None:
    """`float32` is what a GPU runs: fused attention alone."""
    arch = detector_architecture("groundingdino-tiny")
    torch.manual_seed(5)
    official: Any = groundingdino_build.build(arch)
    redraw(official, seed=5)
    ours = copy.deepcopy(official)
    groundingdino_precision.install(ours, precision.DTYPES[name])
    random = torch.Generator().manual_seed(1)
    images, padding = padded([torch.randn(3, *size, generator=random) for size in ((64, 96), (90, 50))], 96, 96)
    tokenizer = bert_tokenizer(resolve("tiny", "detector").vocabulary or resolve("tiny", "detector").weights)
    judge = official_detector(official, tokenizer, images, padding, [CAPTION] * 2)
    found = detector_deviations(ours, images, padding, tokenised(tokenizer, [CAPTION] * 2), judge)
    assert max(found.values()) <= tolerance, found
    assert found["boxes"] <= tolerance / 4
    if name != "float32":
        assert found["memory"] > 1e-5
        weights = {part: one.weight.dtype for part, one in ours.named_modules() if has_weight(one)}
        exact = [part for part, dtype in weights.items() if dtype == torch.float32]
        for part in ("sampling_offsets", "attention_weights", "bbox_embed", "ref_point_head", "bert.", "norm"):
            assert sum(part in one for one in exact) == sum(part in one for one in weights), part


def test_text_to_mask_finds_the_same() -> None:
    """The trained model: as many objects, the same ones, in nearly the same places."""
    image = np.full((160, 220, 3), 200, np.uint8)
    image[40:110, 30:100] = (220, 20, 20)
    exact = TextToMask.from_pretrained("tiny").predict(image, "red square, star")
    lower = TextToMask.from_pretrained("tiny", precision="bfloat16").predict(image, "red square, star")
    assert exact.rles
    assert lower.labels == exact.labels
    assert np.abs(lower.boxes - exact.boxes).max() < 2
    assert np.abs(lower.scores - exact.scores).max() < 0.05
    for ours, theirs in zip(lower.rles or (), exact.rles or (), strict=True):
        assert (decode(ours) & decode(theirs)).sum() >= 0.97 * (decode(ours) | decode(theirs)).sum()


def test_a_detector_of_lower_precision_is_lower() -> None:
    detector = Detector.from_bundle(resolve("tiny", "detector"), precision="float16")
    assert detector.model.transformer.encoder.layers[0].linear1.weight.dtype == torch.float16
    assert detector.model.transformer.encoder.layers[0].self_attn.sampling_offsets.weight.dtype == torch.float32
