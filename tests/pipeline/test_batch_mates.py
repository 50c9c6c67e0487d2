"""A result does not depend on its batch-mates: alone, and in mixed batches in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.bundle import load_weights, resolve
from pipeline.detector import Detector, DetectorItem
from pipeline.image_encoder import ImageEncoder
from pipeline.mask_decoder import DecoderItem, MaskDecoder
from pipeline.masks import decode
from pipeline.models import groundingdino, groundingdino_build, sam
from pipeline.models.architectures import detector_architecture, segmenter_architecture
from pipeline.prompt import parse_classes
from pipeline.stages import DecodeOptions, DetectRequest, MaskPrompts, Masks
from pipeline.tiny import scenes
from tests.pipeline.judge import (
    TOLERANCE,
    bert_tokenizer,
    deviation,
    left_out,
    mask_pixels_off,
    official_detector,
    official_pixels,
    padded,
    photo,
    pixel,
    tokenised,
)
from tests.pipeline.redraw import redraw

pytestmark = pytest.mark.usefixtures("one_thread")

DETECTOR, SEGMENTER = resolve("tiny", "detector"), resolve("tiny", "segmenter")
ARCH, SAM_ARCH = detector_architecture(DETECTOR.architecture), segmenter_architecture(SEGMENTER.architecture)
COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "white", "black"]
LONG = [f"the large {colour} {shape}" for colour in COLOURS for shape in ("circle", "star", "ring")]  # several captions
PROMPTS = ["star", "red circle, ring, a large blue hexagon", LONG, "yellow object, the green crosses", LONG[5:16]]


@pytest.fixture(scope="module", params=["random", "embedded"])
def detector(request: pytest.FixtureRequest) -> Detector:
    torch.manual_seed(11)
    model = groundingdino_build.build(ARCH)
    redraw(model, seed=11)
    if request.param == "embedded":
        load_weights(model, DETECTOR)
    return Detector(model, ARCH, DETECTOR)


def items(detector: Detector, sizes: Sequence[tuple[int, int]]) -> list[DetectorItem]:
    """One image and prompt each, without thresholds."""
    return [
        detector.prepare(photo(*size, seed=i), DetectRequest(parse_classes(PROMPTS[i % len(PROMPTS)]), (), 0.0, 0.0))
        for i, size in enumerate(sizes)
    ]


def check(detector: Detector, batch: Sequence[DetectorItem]) -> None:
    """In the batch, and in its reverse, every item gets what it gets alone; at most 1 % of all queries are left out."""
    assert len({detector.batch_key(item) for item in batch}) == 1
    alone = [detector.finish(item, detector.forward([item])[0]) for item in batch]
    assert min(map(len, alone)) > 0
    together = [detector.finish(item, raw) for item, raw in zip(batch, detector.forward(batch), strict=True)]
    reverse = detector.forward(batch[::-1])[::-1]
    mirrored = [detector.finish(item, raw) for item, raw in zip(batch, reverse, strict=True)]
    for answers in (together, mirrored):
        missing = [left_out(*three) for three in zip(answers, alone, map(tolerance, batch), strict=True)]
        assert sum(missing) <= 0.01 * sum(len(one) for one in alone), missing


def tolerance(item: DetectorItem) -> Any:
    return pixel(item.size, (item.pixels.shape[1], item.pixels.shape[2]))


@pytest.mark.parametrize(
    "sizes",
    [
        [(300, 400), (310, 415), (200, 270), (305, 420), (160, 213)],  # one padded shape, five ways
        [(12, 890), (13, 960)],  # one row of pixels, nearly
        [(900, 12), (902, 12)],
        [(1, 1), (160, 160), (50, 50), (500, 500)],
    ],
    ids=["photos", "wide", "tall", "square"],
)
def test_detections(detector: Detector, sizes: list[tuple[int, int]]) -> None:
    """Every query is compared: no threshold. The prompts differ in length, and some need several captions."""
    batch = items(detector, sizes)
    assert len(sizes) < 3 or detector.cost(batch[2]) > 1
    check(detector, batch)


def test_detections_of_one_exact_shape(detector: Detector) -> None:
    """As the official detectors run: no padding at all."""
    exact = Detector(detector.model, replace(ARCH, pad_multiple=1), DETECTOR)
    check(exact, items(exact, [(300, 391)] * 3))


def test_a_long_prompt_in_turns(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions that do not fit one pass go through the model one after another."""
    batch = items(detector, [(300, 400)] * 5)
    together = [detector.finish(item, raw) for item, raw in zip(batch, detector.forward(batch), strict=True)]
    monkeypatch.setattr("pipeline.detector._MAX_FORWARD_PIXELS", 2 * 160 * 224)
    in_turns = [detector.finish(item, raw) for item, raw in zip(batch, detector.forward(batch), strict=True)]
    missing = [left_out(*three) for three in zip(in_turns, together, map(tolerance, batch), strict=True)]
    assert sum(missing) <= 0.01 * sum(len(one) for one in together)


def test_detections_at_the_default_thresholds() -> None:
    """On scenes in which the embedded model finds what the prompts name."""
    detector = Detector.from_bundle(DETECTOR)
    random = torch.Generator().manual_seed(0)
    batch: list[DetectorItem] = []
    for size in [(300, 400), (310, 415), (200, 270), (305, 420), (240, 320)]:
        scene = scenes.draw(1, *size, random, objects=4)
        image = scene.images[0].round().byte().permute(1, 2, 0).contiguous().numpy()
        kinds = zip(scene.colours[0][scene.present[0]], scene.shapes[0][scene.present[0]], strict=True)
        names = [f"{scenes.COLOUR_NAMES[colour]} {scenes.SHAPES[shape]}" for colour, shape in kinds]
        batch.append(detector.prepare(image, DetectRequest(parse_classes([*names, *COLOURS][: 4 + 4 * len(batch)]))))
    check(detector, batch)


@torch.inference_mode()
def test_a_mixed_batch_equals_the_official_code_alone(detector: Detector) -> None:
    """The official code cannot judge the batch itself: with unequal captions it gives the text layers of one caption
    another's mask. It judges each row alone."""
    tokenizer = bert_tokenizer(DETECTOR.vocabulary or DETECTOR.weights)
    captions = ["star .", "red circle . ring . a large blue hexagon .", "the yellow crosses . white ."]
    pixels = [official_pixels(photo(*size, seed=9), ARCH) for size in [(300, 400), (200, 270), (310, 415)]]
    frame = (160, 224)
    images, padding = padded(pixels, *frame)
    judges = [
        official_detector(detector.model, tokenizer, *padded([one], *frame), [caption])
        for one, caption in zip(pixels, captions, strict=True)
    ]
    memory = groundingdino.encode(detector.model, images, padding, tokenised(tokenizer, captions))
    proposals, boxes = groundingdino.propose(detector.model, memory)
    queries = torch.cat([judge.queries for judge in judges])
    logits, out_boxes = groundingdino.decode(detector.model, memory, boxes, queries)
    for row, judge in enumerate(judges):
        length = judge.memory_text.shape[1]
        assert deviation(memory.image[row], judge.memory[0]) <= TOLERANCE
        assert deviation(memory.text[row, :length], judge.memory_text[0]) <= TOLERANCE
        assert deviation(proposals[row], judge.proposals[0]) <= TOLERANCE
        assert deviation(logits[-1][row], judge.logits[0]) <= TOLERANCE
        assert deviation(out_boxes[-1][row], judge.boxes[0]) <= TOLERANCE


@pytest.fixture(scope="module")
def segmenter() -> tuple[ImageEncoder, MaskDecoder]:
    torch.manual_seed(12)
    model = sam.build(SAM_ARCH)
    redraw(model, seed=12)
    return ImageEncoder(model, SAM_ARCH), MaskDecoder(model, SAM_ARCH)


SIZES = [(210, 330), (12, 900), (1, 1), (400, 300)]


def test_embeddings(segmenter: tuple[ImageEncoder, MaskDecoder]) -> None:
    encoder, _ = segmenter
    batch = [encoder.prepare(photo(*size, seed=i), key=str(i)) for i, size in enumerate(SIZES)]
    for item, raw in zip(batch, encoder.forward(batch), strict=True):
        alone, together = encoder.finish(item, encoder.forward([item])[0]), encoder.finish(item, raw)
        assert deviation(together.features, alone.features) <= TOLERANCE
        assert (together.key, together.image_size) == (alone.key, alone.image_size)


@pytest.fixture(scope="module")
def ragged_batch(segmenter: tuple[ImageEncoder, MaskDecoder]) -> list[DecoderItem]:
    """Four images; two or three prompts of every kind; points of different counts; one mask, the best of three, and all
    three; with and without logits."""
    encoder, decoder = segmenter
    random = np.random.default_rng(0)
    side = 4 * SAM_ARCH.embedding_size

    def boxes(size: tuple[int, int], count: int) -> Any:
        corners = np.sort(random.uniform(0, 1, (count, 2, 2)), 1) * np.array(size[::-1])
        return corners.reshape(count, 4).astype(np.float32)

    def points(size: tuple[int, int], *counts: int) -> Any:
        rows = [(random.uniform(0, size[1], n), random.uniform(0, size[0], n), np.arange(n) % 2 == 0) for n in counts]
        return tuple(np.column_stack(one).astype(np.float32) for one in rows)

    low_res = random.normal(0, 4, (2, side, side)).astype(np.float32)
    prompts = [
        (MaskPrompts(boxes=boxes(SIZES[0], 3)), DecodeOptions(low_res=True)),
        (MaskPrompts(points=points(SIZES[1], 1, 3)), DecodeOptions(multimask=True, low_res=True, alternatives=True)),
        (MaskPrompts(boxes=boxes(SIZES[2], 2), points=points(SIZES[2], 2, 0)), DecodeOptions(low_res=True)),
        (MaskPrompts(boxes=boxes(SIZES[3], 2), mask_inputs=low_res), DecodeOptions(multimask=True, low_res=True)),
        (MaskPrompts(boxes=boxes(SIZES[3], 2)), DecodeOptions(multimask=True, alternatives=True)),
    ]
    embeddings = [encoder.encode(photo(*size, seed=i)) for i, size in enumerate([*SIZES, SIZES[3]])]
    return [decoder.prepare(one, *rest) for one, rest in zip(embeddings, prompts, strict=True)]


@pytest.mark.parametrize("most", [64, 2])
def test_masks(
    segmenter: tuple[ImageEncoder, MaskDecoder],
    ragged_batch: list[DecoderItem],
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (_, decoder), batch = segmenter, ragged_batch
    alone = [decoder.finish(item, decoder.forward([item])[0]) for item in batch]
    monkeypatch.setattr("pipeline.mask_decoder._MAX_PROMPTS", most)
    for raws in (decoder.forward(batch), decoder.forward(batch[::-1])[::-1]):
        for item, raw, expected in zip(batch, raws, alone, strict=True):
            assert_same(decoder.finish(item, raw), expected)


def assert_same(found: Masks, expected: Masks) -> None:
    assert len(found) == len(expected)
    assert (found.low_res is None) == (expected.low_res is None)
    if expected.low_res is not None:
        assert deviation(found.low_res, expected.low_res) <= TOLERANCE
    assert (found.alternatives is None) == (expected.alternatives is None)
    for alternatives, others in zip(found.alternatives or (), expected.alternatives or (), strict=True):
        assert_same(alternatives, others)
    np.testing.assert_allclose(found.mask_scores, expected.mask_scores, rtol=0, atol=1e-3)
    for ours, theirs in zip(found.rles, expected.rles, strict=True):
        assert mask_pixels_off(decode(ours), decode(theirs)) <= 0


def test_a_mixed_up_batch_is_noticed(
    segmenter: tuple[ImageEncoder, MaskDecoder], ragged_batch: list[DecoderItem], detector: Detector
) -> None:
    """The comparisons above can fail: one image's answer does not pass for another's."""
    _, decoder = segmenter
    first, second = (decoder.forward([item])[0].logits for item in ragged_batch[3:])
    assert first is not None
    assert second is not None
    assert deviation(first[:, 0], second[:, 0]) > 10 * TOLERANCE
    request = DetectRequest(parse_classes("star"), (), 0.0, 0.0)
    batch = [detector.prepare(photo(300, 400, seed), request) for seed in (0, 1)]
    one, other = (detector.finish(item, detector.forward([item])[0]) for item in batch)
    assert left_out(one, other, tolerance(batch[0])) > 0.5 * len(other)
