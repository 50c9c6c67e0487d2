"""What a request costs the mask decoder, and how a large one is split."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bundle import resolve
from pipeline.errors import StageError
from pipeline.image_encoder import ImageEncoder
from pipeline.mask_decoder import DecoderItem, MaskDecoder
from pipeline.stages import DecodeOptions, Embedding, MaskPrompts


@pytest.fixture(scope="module")
def decoder() -> MaskDecoder:
    return MaskDecoder.from_bundle(resolve("tiny", "segmenter"))


def item(decoder: MaskDecoder, points: list[int], options: DecodeOptions) -> DecoderItem:
    """One instance for each number of points."""
    side = decoder.arch.embedding_size
    features = np.zeros((decoder.arch.out_chans, side, side), np.float32)
    embedding = Embedding(features, input_size=(288, 384), image_size=(96, 128))
    return decoder.prepare(embedding, MaskPrompts(points=tuple(np.ones((n, 3), np.float32) for n in points)), options)


def test_cost_counts_masks_and_points(decoder: MaskDecoder) -> None:
    three = DecodeOptions(multimask=True, alternatives=True)
    assert decoder.cost(item(decoder, [1, 1, 49], DecodeOptions())) == 3
    assert decoder.cost(item(decoder, [1, 1, 49], three)) == 9
    assert decoder.cost(item(decoder, [50, 120, 1], DecodeOptions())) == 2 + 3 + 1
    assert decoder.cost(item(decoder, [120], three)) == 3 + 2


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    points=st.lists(st.sampled_from([1, 2, 60, 300]), min_size=1, max_size=40),
    most=st.integers(1, 12),
    three=st.booleans(),
)
def test_parts_cost_no_more_than_is_allowed(decoder: MaskDecoder, points: list[int], most: int, *, three: bool) -> None:
    whole = item(decoder, points, DecodeOptions(multimask=three, alternatives=three))
    parts = decoder.split(whole, most)
    assert tuple(chain.from_iterable(part.prompts for part in parts)) == whole.prompts
    assert all(decoder.cost(part) <= most or len(part.prompts) == 1 for part in parts)
    assert all(part.options == whole.options for part in parts)
    for one, following in zip(parts, parts[1:], strict=False):  # none is smaller than need be
        first = item(decoder, [len(following.prompts[0].points)], whole.options)  # type: ignore[arg-type]
        assert decoder.cost(one) + decoder.cost(first) > most


def test_an_embedding_of_other_weights_is_refused(decoder: MaskDecoder) -> None:
    """It would give wrong masks: for a while both are there, when a service gets another version of a segmenter."""
    bundle = resolve("tiny", "segmenter")
    embedding = ImageEncoder.from_bundle(bundle).encode(np.zeros((96, 128, 3), np.uint8))
    prompts = MaskPrompts(boxes=np.array([[10, 10, 90, 90]], np.float32))
    assert embedding.weights == bundle.sha256
    assert len(decoder.decode(embedding, prompts, DecodeOptions())) == 1
    with pytest.raises(StageError) as refusal:
        decoder.decode(replace(embedding, weights=64 * "0"), prompts, DecodeOptions())
    assert refusal.value.code == "other_weights"
