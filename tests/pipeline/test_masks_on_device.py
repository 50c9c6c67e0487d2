"""Masks made where the model is, and sent as bits, are those that the CPU makes from logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.image_encoder import ImageEncoder
from pipeline.mask_decoder import MaskDecoder
from pipeline.masks import area, decode
from pipeline.models import sam, sam_upsampling
from pipeline.models.architectures import segmenter_architecture
from pipeline.stages import DecodeOptions, Embedding, Float32Array, MaskPrompts, Masks
from tests.pipeline.judge import mask_pixels_off, photo
from tests.pipeline.redraw import redraw

pytestmark = pytest.mark.usefixtures("one_thread")

ARCH = segmenter_architecture("sam-tiny")


def blank(size: tuple[int, int], inner: tuple[int, int]) -> Embedding:
    return Embedding(np.zeros((1, 1, 1), np.float32), input_size=inner, image_size=size)


def logits(kind: str) -> Float32Array:
    y, x = np.mgrid[:64, :64].astype(np.float32)
    shapes = {
        "disc": 300 - (y - 20) ** 2 - (x - 30) ** 2,
        "corner": 9 - y - x,
        "everything": np.ones((64, 64)),
        "nothing": -np.ones((64, 64)),
        "waves": np.sin(y / 3) * np.cos(x / 5),
    }
    made: Float32Array = shapes[kind].astype(np.float32)
    return made


@pytest.mark.parametrize("kind", ["disc", "corner", "everything", "nothing", "waves"])
@pytest.mark.parametrize(
    ("size", "inner"), [((120, 160), (192, 256)), ((161, 121), (256, 192)), ((1, 300), (1, 256)), ((600, 7), (256, 3))]
)
def test_bits_are_the_mask(kind: str, size: tuple[int, int], inner: tuple[int, int]) -> None:
    embedding = blank(size, inner)
    expected, _ = sam_upsampling.full_size(logits(kind), embedding, 256)
    (bits,) = sam_upsampling.packed(torch.from_numpy(logits(kind))[None], embedding, 256).numpy()
    assert bits.shape == sam_upsampling.packed_shape(embedding)
    assert bits.dtype == np.uint8
    found, pixels = sam_upsampling.unpacked(bits, embedding)
    assert found.size == size
    assert pixels == area(found)
    assert mask_pixels_off(decode(found), decode(expected)) <= 0


def test_many_masks_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = blank((120, 160), (192, 256))
    every = torch.from_numpy(np.stack([logits(kind) for kind in ("disc", "corner", "waves")]))
    whole = sam_upsampling.packed(every, embedding, 256)
    monkeypatch.setattr(sam_upsampling, "_PIXELS", 1)
    assert torch.equal(sam_upsampling.packed(every, embedding, 256), whole)


def test_the_decoder_gives_the_same_masks() -> None:
    """Images of different sizes, prompts of different layouts and options, in one pass."""
    torch.manual_seed(7)
    model = sam.build(ARCH)
    redraw(model, seed=7)
    encoder = ImageEncoder(model, ARCH)
    boxes = np.array([[10, 20, 80, 90], [5, 5, 60, 95], [0, 0, 100, 100]], np.float32)
    points = (np.array([[30, 40, 1]], np.float32),)
    asked = [
        ((100, 140), MaskPrompts(boxes=boxes), DecodeOptions()),
        ((131, 103), MaskPrompts(points=points), DecodeOptions(multimask=True, alternatives=True)),
        ((100, 101), MaskPrompts(boxes=boxes[:2]), DecodeOptions(low_res=True)),
    ]
    answers: list[list[Masks]] = []
    for on_device in (False, True):
        decoder = MaskDecoder(model, ARCH, masks_on_device=on_device)
        items = [decoder.prepare(encoder.encode(photo(*size)), prompts, options) for size, prompts, options in asked]
        raws = decoder.forward(items)
        assert [raw.logits is not None for raw in raws] == ([False, False, True] if on_device else [True] * 3)
        answers.append([decoder.finish(item, raw) for item, raw in zip(items, raws, strict=True)])
    for expected, found in zip(*answers, strict=True):
        same(found, expected)
        assert (found.low_res is None) == (expected.low_res is None)
        for one, other in zip(found.alternatives or (), expected.alternatives or (), strict=True):
            same(one, other)
    assert answers[1][1].alternatives is not None
    first = answers[1][0]
    assert len({rle.counts for rle in first.rles}) > 1


def same(found: Masks, expected: Masks) -> None:
    assert len(found) == len(expected)
    np.testing.assert_allclose(found.mask_scores, expected.mask_scores, rtol=1e-5)
    for ours, theirs, pixels in zip(found.rles, expected.rles, found.areas, strict=True):
        assert pixels == area(ours)
        assert mask_pixels_off(decode(ours), decode(theirs)) <= 0
    if found.low_res is not None and expected.low_res is not None:
        np.testing.assert_allclose(found.low_res, expected.low_res, rtol=1e-4, atol=1e-4)


def test_bits_to_keep_are_limited() -> None:
    """Of a large image fewer masks a part: each is a twentieth of a gigabyte or less."""
    model = sam.build(ARCH)
    features = np.zeros((ARCH.out_chans, ARCH.embedding_size, ARCH.embedding_size), np.float32)
    large = Embedding(features, input_size=(384, 384), image_size=(8000, 8000))
    prompts = MaskPrompts(boxes=np.tile(np.array([[0, 0, 9, 9]], np.float32), (40, 1)))
    decoder = MaskDecoder(model, ARCH, masks_on_device=True)
    item = decoder.prepare(large, prompts, DecodeOptions())
    parts = decoder.split(item, 256)
    assert sum(len(part.prompts) for part in parts) == 40
    assert max(len(part.prompts) for part in parts) * 8000 * 1000 <= 2**27
    small = replace(item, embedding=replace(large, image_size=(100, 100)))
    assert len(decoder.split(small, 256)) == 1
