"""The detector equals `GroundingDINO.forward` on the same weights, by part and end to end; a broken one does not."""

from __future__ import annotations

import copy
import dataclasses
import math
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from pipeline.bundle import resolve
from pipeline.detector import Detector, resized_size
from pipeline.models import groundingdino, groundingdino_build
from pipeline.models.architectures import detector_architecture
from pipeline.prompt import parse_classes
from pipeline.shape_buckets import bucket
from pipeline.stages import DetectRequest
from tests.pipeline.judge import (
    TOLERANCE,
    Verdict,
    bert_tokenizer,
    detector_deviations,
    deviation,
    labelled,
    left_out,
    official_detector,
    official_pixels,
    padded,
    photo,
    pixel,
    tokenised,
)
from tests.pipeline.redraw import constant_tensors, redraw

pytestmark = pytest.mark.usefixtures("one_thread")

BUNDLE = resolve("tiny", "detector")
ARCH = detector_architecture(BUNDLE.architecture)
CAPTION = "red circle . star . a large blue hexagon ."


def random_model() -> Any:
    torch.manual_seed(5)
    model = groundingdino_build.build(ARCH)
    redraw(model, seed=5)
    return model


@pytest.fixture(scope="module")
def theirs() -> Any:
    return random_model()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return bert_tokenizer(BUNDLE.vocabulary or BUNDLE.weights)


def noise(height: int, width: int, seed: int) -> Tensor:
    return torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))


def test_no_tensor_is_left_constant(theirs: Any) -> None:
    assert constant_tensors(groundingdino_build.build(ARCH))  # as initialised, there are
    assert constant_tensors(theirs) == []


@pytest.mark.parametrize(
    ("sizes", "frame", "caption"),
    [
        ([(157, 203)], (157, 203), CAPTION),  # no multiple of any stride
        ([(64, 96), (90, 50), (96, 96)], (96, 96), CAPTION),  # padded on both sides, on one, on none
        ([(96, 64)], (96, 64), "star ."),
        ([(64, 96)], (64, 96), " . ".join(["a large red circle", "rings", "the yellow crescents"] * 3) + " ."),
    ],
    ids=["odd", "padded", "one-word", "long"],
)
def test_part_by_part(
    theirs: Any, tokenizer: Any, sizes: list[tuple[int, int]], frame: tuple[int, int], caption: str
) -> None:
    """With the judge's own weights in a second model; a batch of equal captions is what the official code can do."""
    ours = groundingdino_build.build(ARCH)
    ours.load_state_dict(theirs.state_dict())
    images, padding = padded([noise(*size, seed=i) for i, size in enumerate(sizes)], *frame)
    captions = [caption] * len(sizes)
    judge = official_detector(theirs, tokenizer, images, padding, captions)
    found = detector_deviations(ours, images, padding, tokenised(tokenizer, captions), judge)
    assert max(found.values()) <= TOLERANCE, found


@pytest.fixture(scope="module")
def small_case(theirs: Any, tokenizer: Any) -> tuple[Tensor, Tensor, Verdict]:
    images, padding = padded([noise(64, 90, seed=0)], 64, 96)
    return images, padding, official_detector(theirs, tokenizer, images, padding, [CAPTION])


MUTATIONS = [
    "transformer.level_embed",
    "transformer.tgt_embed.weight",
    "transformer.encoder.layers.1.self_attn.sampling_offsets.weight",
    "transformer.encoder.layers.1.self_attn.attention_weights.weight",
    "transformer.encoder.fusion_layers.0.gamma_v",
    "transformer.encoder.fusion_layers.0.gamma_l",
    "transformer.encoder.text_layers.0.self_attn.in_proj_weight",
    "transformer.encoder.text_layers.1.linear1.bias",
    "transformer.decoder.layers.1.cross_attn.sampling_offsets.weight",
    "transformer.decoder.layers.0.cross_attn.attention_weights.bias",
    "transformer.decoder.layers.0.ca_text.in_proj_bias",
    "transformer.decoder.ref_point_head.layers.1.weight",
    "transformer.enc_out_bbox_embed.layers.2.weight",
    "transformer.enc_output_norm.bias",
    "bbox_embed.0.layers.2.weight",
    "bbox_embed.0.layers.2.bias",
    "bert.embeddings.word_embeddings.weight",
    "bert.embeddings.position_embeddings.weight",
    "bert.encoder.layer.1.attention.self.query.weight",
    "feat_map.bias",
    "input_proj.1.1.weight",
    "backbone.0.layers.0.blocks.1.attn.relative_position_bias_table",
    "backbone.0.norm2.bias",
]


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_zeroed_tensor_is_noticed(
    theirs: Any, tokenizer: Any, small_case: tuple[Tensor, Tensor, Verdict], name: str
) -> None:
    images, padding, judge = small_case
    ours = copy.deepcopy(theirs)
    text = tokenised(tokenizer, [CAPTION])
    assert max(detector_deviations(ours, images, padding, text, judge).values()) <= TOLERANCE
    with torch.no_grad():
        ours.state_dict()[name].zero_()
    found = detector_deviations(ours, images, padding, text, judge)
    assert max(found.values()) > 3 * TOLERANCE, found


@pytest.mark.parametrize("name", ["self_attention", "position_ids", "token_mask"])
def test_a_wrong_text_mask_is_noticed(
    theirs: Any, tokenizer: Any, small_case: tuple[Tensor, Tensor, Verdict], name: str
) -> None:
    images, padding, judge = small_case
    text = tokenised(tokenizer, [CAPTION])
    wrong = {
        "self_attention": torch.ones_like(text.self_attention),
        "position_ids": torch.arange(text.input_ids.shape[1])[None],
        "token_mask": torch.cat((text.token_mask[:, :-1], torch.tensor([[False]])), 1),
    }
    setattr(text, name, wrong[name])
    assert max(detector_deviations(theirs, images, padding, text, judge).values()) > 3 * TOLERANCE


def test_text_masks(tokenizer: Any) -> None:
    """Captions of different lengths in one batch, against the official function."""
    captions = ["star .", CAPTION, "rings . a the an . object .", "yellow . green ."]
    official = import_module("groundingdino.models.GroundingDINO.bertwarper")
    tokens = tokenizer(captions, padding="longest", return_tensors="pt")
    special = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"])
    attention, positions, _ = official.generate_masks_with_special_tokens_and_transfer_map(tokens, special, tokenizer)
    ours = tokenised(tokenizer, captions)
    assert torch.equal(ours.input_ids, tokens["input_ids"])
    assert torch.equal(ours.token_mask, tokens["attention_mask"].bool())
    assert torch.equal(ours.self_attention, attention)
    assert torch.equal(ours.position_ids, positions)


@torch.inference_mode()
def test_a_class_reads_only_itself(theirs: Any, tokenizer: Any) -> None:
    """Every block of the mask equals a plain `BertModel` that is given that block alone, with no mask at all."""
    text = tokenised(tokenizer, [CAPTION])
    plain = import_module("transformers").BertModel(theirs.bert.config).eval()
    plain.load_state_dict(theirs.bert.state_dict())
    encoded = theirs.bert(text.input_ids, attention_mask=text.self_attention, position_ids=text.position_ids)
    starts = [i for i in range(text.input_ids.shape[1]) if i == 0 or text.position_ids[0, i] == 0]
    assert len(starts) == 5  # [CLS], three classes, [SEP]
    for start, end in zip(starts, [*starts[1:], text.input_ids.shape[1]], strict=True):
        alone = plain(text.input_ids[:, start:end])
        assert deviation(encoded["last_hidden_state"][:, start:end], alone["last_hidden_state"]) <= TOLERANCE


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1500), st.integers(1, 1500), st.sampled_from([(800, 1333), (ARCH.short_side, ARCH.long_side)]))
@example(12, 900, (800, 1333))
@example(1, 1, (800, 1333))
@example(800, 1333, (800, 1333))
@example(1333, 800, (800, 1333))
@example(1, 3000, (800, 1333))
@example(2, 1500, (800, 1333))
def test_resized_size(height: int, width: int, limits: tuple[int, int]) -> None:
    short, long = limits
    resize = import_module("groundingdino.datasets.transforms").resize
    image = Image.new("L", (width, height))
    if round(long * min(height, width) / max(height, width)) == 0:  # the official size is 0, and it fails
        with pytest.raises(ValueError, match="must be > 0"):
            resize(image, None, short, long)
        assert sorted(resized_size((height, width), short, long)) == [1, long]
        return
    resized, _ = resize(image, None, short, long)
    assert resized_size((height, width), short, long) == (resized.height, resized.width)


@pytest.mark.parametrize("size", [(300, 400), (333, 251), (12, 900), (900, 12), (1, 1), (160, 160), (700, 1000)])
def test_pixels(theirs: Any, size: tuple[int, int]) -> None:
    image = photo(*size, seed=0)
    item = Detector(theirs, ARCH, BUNDLE).prepare(image, DetectRequest(parse_classes("star")))
    expected = official_pixels(image, ARCH).numpy()
    assert item.pixels.shape == expected.shape
    np.testing.assert_allclose(item.pixels, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", ["random", "embedded"])
@pytest.mark.parametrize("size", [(300, 400), (431, 257), (12, 900), (1, 1)])
def test_end_to_end(theirs: Any, tokenizer: Any, weights: str, size: tuple[int, int]) -> None:
    """`detect` with no threshold against official preprocessing, forward and label rule, query by query."""
    detector = Detector(theirs, ARCH, BUNDLE) if weights == "random" else Detector.from_bundle(BUNDLE)
    image, texts = photo(*size, seed=1), ["red circle", "star", "a large blue hexagon"]
    request = DetectRequest(parse_classes(texts), box_threshold=0.0, text_threshold=0.0)
    item = detector.prepare(image, request)
    found = detector.detect(image, request)
    images, padding = padded([official_pixels(image, ARCH)], *item.padded)
    judge = official_detector(detector.model, tokenizer, images, padding, [" . ".join(texts) + " ."])
    expected = labelled(tokenizer, judge, texts, size)
    resized = (item.pixels.shape[1], item.pixels.shape[2])
    assert left_out(found, expected, pixel(size, resized)) <= 0.01 * len(expected)


def test_fewer_image_tokens_than_queries(theirs: Any, tokenizer: Any) -> None:
    """The official code cannot answer such an image (its top-k fails); ours answers with a query for every token."""
    images, padding = padded([noise(32, 64, seed=0)], 32, 64)
    with pytest.raises(RuntimeError, match="out of range"):
        official_detector(theirs, tokenizer, images, padding, [CAPTION])
    text = tokenised(tokenizer, [CAPTION])
    with torch.inference_mode():
        memory = groundingdino.encode(theirs, images, padding, text)
        logits, boxes = groundingdino.propose(theirs, memory)
        queries = groundingdino.top_queries(theirs, logits)
        assert queries.shape == (1, 4 * 8 + 2 * 4 + 1 * 2)
        answers, _ = groundingdino.decode(theirs, memory, boxes, queries)
    assert answers[-1].shape == (1, 42, 256)
    assert bool(answers[-1][..., : text.input_ids.shape[1]].isfinite().all())


@pytest.mark.parametrize("weights", ["random", "embedded"])
@pytest.mark.parametrize("size", [(300, 390), (431, 257)])
def test_end_to_end_in_buckets(theirs: Any, tokenizer: Any, weights: str, size: tuple[int, int]) -> None:
    """The official code on the same padded tensor; these images lie in no exact shape of the table."""
    model = theirs if weights == "random" else Detector.from_bundle(BUNDLE).model
    arch = dataclasses.replace(ARCH, pad_multiple=1)
    detector = Detector(model, arch, BUNDLE, shapes="buckets")
    image, texts = photo(*size, seed=1), ["red circle", "star", "a large blue hexagon"]
    request = DetectRequest(parse_classes(texts), box_threshold=0.0, text_threshold=0.0)
    item = detector.prepare(image, request)
    pixels = official_pixels(image, arch)
    assert item.padded != pixels.shape[1:]
    assert item.padded == {(300, 390): (160, 224), (431, 257): (288, 160)}[size]
    found = detector.detect(image, request)
    images, padding = padded([pixels], *item.padded)
    judge = official_detector(model, tokenizer, images, padding, [" . ".join(texts) + " ."])
    expected = labelled(tokenizer, judge, texts, size)
    resized = (item.pixels.shape[1], item.pixels.shape[2])
    assert left_out(found, expected, pixel(size, resized)) <= 0.01 * len(expected)
    assert Detector(model, arch, BUNDLE).prepare(image, request).padded == pixels.shape[1:]  # exact is the default


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([(800, 1333), (ARCH.short_side, ARCH.long_side)]))
def test_a_bucket_holds_the_image_and_turns_with_it(height: int, width: int, limits: tuple[int, int]) -> None:
    short, long = limits
    resized = resized_size((height, width), *limits)
    shape = bucket(resized, *limits)
    assert shape[0] >= resized[0]
    assert shape[1] >= resized[1]
    assert shape[0] % 32 == shape[1] % 32 == 0
    assert min(shape) < short + 32
    assert max(shape) < max(long, *resized) + 32
    if resized[0] != resized[1]:
        assert bucket((resized[1], resized[0]), *limits) == shape[::-1]
    low, high = min(resized), max(resized)
    if high <= 4 * low:
        assert shape[0] * shape[1] <= 1.55 * (low + 31) * (high + 31)


def test_buckets_are_few_and_waste_little_on_common_images() -> None:
    sizes = [(480, 640), (640, 480), (427, 640), (375, 500), (640, 640), (1080, 1920), (3024, 4032), (4000, 6000)]
    resized = [resized_size(size, 800, 1333) for size in sizes]
    assert len({bucket((low, 1333), 800, 1333) for low in range(1, 801)}) <= 6
    assert len({bucket((800, high), 800, 1333) for high in range(800, 1334)}) <= 5
    waste = [math.prod(bucket(size, 800, 1333)) / math.prod(size) for size in resized]
    assert max(waste) <= 1.05, waste


def test_a_caption_on_a_large_image_costs_more(theirs: Any) -> None:
    """And a request that costs too much is split into parts that do not."""
    for padded_size, each in (((160, 224), 1), ((400, 1344), 1), ((416, 1344), 2), ((800, 1344), 2), ((1600, 1344), 4)):
        detector = Detector(theirs, ARCH, BUNDLE)
        request = DetectRequest(parse_classes([f"red circle {chr(97 + i)}" for i in range(26)]))
        item = detector.prepare(photo(160, 200), request)
        assert len(item.captions) > 2
        item = dataclasses.replace(item, padded=padded_size, captions=item.captions * 3)
        assert detector.cost(item) == each * len(item.captions)
        for most in (1, 4, 5, 100):
            parts = detector.split(item, most)
            assert all(detector.cost(part) <= max(most, each) for part in parts)
            assert sum((part.captions for part in parts), ()) == item.captions
            assert len(parts) == math.ceil(len(item.captions) / max(1, most // each))
