"""Prompts of every kind through the whole path in one process, with the embedded model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from pipeline import StageError, TextToMask
from pipeline.detector import DetectorItem
from pipeline.prompt import parse_classes
from pipeline.result import Result
from pipeline.stages import DetectRequest, UInt8Array
from pipeline.tiny import scenes
from tests.pipeline.judge import (
    PublishedEvaluation,
    bert_tokenizer,
    left_out,
    official_detector,
    official_pixels,
    padded,
    pixel,
)

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = [f"{colour} {shape}" for colour in scenes.COLOUR_NAMES for shape in scenes.SHAPES]


@pytest.fixture(scope="module")
def model() -> TextToMask:
    return TextToMask.from_pretrained("tiny")


@pytest.fixture(scope="module")
def picture() -> UInt8Array:
    drawn = scenes.draw(1, 240, 320, torch.Generator().manual_seed(21), objects=3)
    return drawn.images[0].round().byte().permute(1, 2, 0).contiguous().numpy()


# ---- many classes


def test_many_classes_run_in_parts(model: TextToMask, picture: UInt8Array, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded passes through the model, one picture in each; together what one pass over everything gives."""
    detector = model.detector
    names = [f"{article}{name}" for article in ("", "the ", "a ", "an ") for name in NAMES]
    request = DetectRequest(parse_classes(names), (), 0.0, 0.0)
    item = detector.prepare(picture, request)
    whole = detector.finish(item, detector.forward([item])[0])
    assert sorted(i for caption in item.captions for i in caption.class_index) == list(range(256))

    captions: list[int] = []
    pictures: list[int] = []
    forward = detector.forward

    def counted(batch: list[DetectorItem]) -> Any:
        captions.append(sum(len(one.captions) for one in batch))
        return forward(batch)

    monkeypatch.setattr(detector, "forward", counted)
    hook = detector.model.backbone.register_forward_hook(lambda _, inputs, __: pictures.append(len(inputs[0].tensors)))
    try:
        found = detector.detect(picture, request)
    finally:
        hook.remove()
    assert sum(captions) == found.passes == whole.passes == len(item.captions) > 16
    assert max(captions) <= 16
    assert pictures == [1] * len(captions)
    assert left_out(found, whole, pixel(item.size, item.pixels.shape[1:])) <= 0.01 * len(whole)


def test_a_late_request_ends_between_its_parts(
    model: TextToMask, picture: UInt8Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.detector._MAX_PART_CAPTIONS", 1)
    now = iter([1.0, 2.0, 10.0])
    monkeypatch.setattr("pipeline.detector.time", SimpleNamespace(time=lambda: next(now)))
    with pytest.raises(StageError) as refused:
        model.detector.detect(picture, DetectRequest(parse_classes(NAMES)), deadline=10.0)
    assert refused.value.code == "deadline_exceeded"
    assert next(now, None) is None  # two of five parts had run


def test_classes_and_negatives_share_captions(model: TextToMask, picture: UInt8Array) -> None:
    result = model.predict(picture, NAMES[:10], negative_prompt=NAMES[10:15], box_threshold=0.1)
    assert result.passes == 1  # 15 of three tokens each fit 46
    assert set(result.labels) <= set(NAMES[:10])


# ---- texts


def test_a_phrase_is_one_class(model: TextToMask, picture: UInt8Array) -> None:
    text = "red circle, the star. Blue; ring"
    settings: dict[str, Any] = {"box_threshold": 0.0, "text_threshold": 0.0, "max_detections": 5}
    phrase = model.predict(picture, text, mode="phrase", **settings)
    assert phrase.labels == (text,) * 5
    assert phrase == model.predict(picture, [text], **settings)
    assert phrase != model.predict(picture, text, **settings)
    several = ["red, blue", "star"]
    assert model.predict(picture, several, mode="phrase", **settings) == model.predict(picture, several, **settings)


def warned(result: Result, words: list[str]) -> bool:
    return len(result.warnings) == len(words) and all(
        repr(word) in warning for word, warning in zip(words, result.warnings, strict=True)
    )


def test_classes_without_a_known_word_are_named_once_each(model: TextToMask, picture: UInt8Array) -> None:
    assert warned(model.predict(picture, "red, Steam Locomotive, red locomotive, 🦄"), ["Steam Locomotive", "🦄"])
    assert warned(model.predict(picture, "red", negative_prompt=["locomotive", "blue"]), ["locomotive"])
    assert warned(model.predict(picture, "a, locomotive, in the snow", mode="phrase"), [])  # "a", "the"
    assert warned(model.predict(picture, "locomotive, in snow", mode="phrase"), ["locomotive, in snow"])
    many = model.predict(picture, [*NAMES, "locomotive", "LOCOMOTIVE", "tender"])
    assert many.passes > 1
    assert warned(many, ["locomotive", "tender"])


# ---- negatives


@pytest.mark.parametrize("least", [None, 0.15, 1.0])
def test_negatives_that_pass_their_threshold_remove_what_they_outscore(
    model: TextToMask, picture: UInt8Array, least: float | None
) -> None:
    """The count, from the boxes before the selection, by torchvision's IoU."""
    names = ["red", "blue", "green", "star"]
    negative: Any = {"text": "object"} if least is None else {"text": "object", "box_threshold": least}
    request = DetectRequest(parse_classes(names), parse_classes([negative]), 0.05, 0.02)
    found = model.detector.detect(picture, request)
    mine, others = found.take(found.class_ids >= 0), found.take(found.class_ids < 0)
    assert len(mine)
    assert (others.scores >= np.float32(0.05 if least is None else least)).all()
    assert (len(others) > 0) == (least != 1.0)
    overlap = box_iou(torch.from_numpy(mine.boxes), torch.from_numpy(others.boxes)).numpy() >= 0.3
    gone = (overlap & (others.scores[None] > mine.scores[:, None])).any(1)
    result = model.predict(
        picture,
        names,
        negative_prompt=[negative],
        box_threshold=0.05,
        text_threshold=0.02,
        negative_iou=0.3,
        nms="off",
        max_detections=1000,
    )
    assert result.removed["negatives"] == gone.sum()
    np.testing.assert_array_equal(np.sort(result.scores), np.sort(mine.scores[~gone]))


@pytest.mark.parametrize("name", ["red circle", "square", "star", "yellow star"])
@pytest.mark.parametrize("negative", ["red", "star", "triangle", "object", "yellow"])
def test_a_negative_takes_no_label_away(model: TextToMask, picture: UInt8Array, name: str, negative: str) -> None:
    """One that can pass nothing removes nothing, even where it fits a box better than the class does."""
    alone = model.predict(picture, name)
    beside = model.predict(picture, name, negative_prompt=[{"text": negative, "box_threshold": 1.0}])
    assert beside.labels == alone.labels
    assert beside.removed["negatives"] == 0


# ---- raw mode


def test_raw_mode_equals_the_published_evaluation_of_the_official_model(model: TextToMask, picture: UInt8Array) -> None:
    detector, names, size = model.detector, ["red circle", "star", "a large blue hexagon"], (240, 320)
    tokenizer = bert_tokenizer(detector.bundle.vocabulary or detector.bundle.weights)
    judge = PublishedEvaluation(tokenizer, names, 100)
    item = detector.prepare(picture, DetectRequest(parse_classes(names), top_k=100))
    images, padding = padded([official_pixels(picture, detector.arch)], *item.padded)
    verdict = official_detector(detector.model, tokenizer, images, padding, [judge.caption])
    expected = judge(verdict.logits[0].sigmoid(), verdict.boxes[0], size)
    found = detector.detect(picture, DetectRequest(parse_classes(names), top_k=100))
    clipped = expected.boxes.clip(0, [size[1], size[0]] * 2)  # as all of our boxes
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-3)
    same = type(expected)(clipped, expected.scores, expected.scores, expected.class_ids, size)
    assert left_out(found, same, pixel(size, item.pixels.shape[1:])) <= 1


def test_raw_mode_knows_no_thresholds_and_no_nms(model: TextToMask, picture: UInt8Array) -> None:
    prompt: Any = [{"text": "red", "box_threshold": 1.0}, "star"]
    raw = model.predict(picture, prompt, raw=True, max_detections=30)
    assert len(raw) == 30
    assert raw == model.predict(
        picture, prompt, raw=True, max_detections=30, box_threshold=1.0, text_threshold=1.0, nms_threshold=0.0
    )
    assert raw.removed == {"negatives": 0, "nms": 0, "area": 0, "cap": 0}
    assert (np.diff(raw.scores) <= 0).all()
    np.testing.assert_array_equal(raw.scores, raw.text_scores)
    corner = {tuple(box) for box in raw.boxes.round(2).tolist()}
    assert len(corner) < 30  # some boxes stand under both classes


def test_areas_apply_in_raw_mode(model: TextToMask, picture: UInt8Array) -> None:
    whole = model.predict(picture, "red, star", raw=True, max_detections=40)
    shares = np.prod(whole.boxes[:, 2:] - whole.boxes[:, :2], axis=1) / (240 * 320)
    middle = float(np.median(shares)) * 1.001
    small = model.predict(picture, "red, star", raw=True, max_detections=40, max_area=middle)
    assert 0 < len(small) < 40
    assert small.removed["area"] == 40 - len(small) == (shares > middle).sum()


def test_raw_mode_takes_no_negatives(model: TextToMask, picture: UInt8Array) -> None:
    with pytest.raises(StageError) as refused:
        model.predict(picture, "red", negative_prompt="star", raw=True)
    assert (refused.value.code, refused.value.param) == ("invalid_value", "raw")
