"""`TextToMask.masks`, from an image and plain lists to masks, as `SamPredictor` answers on the same weights."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import SamPredictor

from pipeline import StageError, TextToMask
from pipeline.bundle import load_weights, resolve
from pipeline.mask_result import MaskResult
from pipeline.models import sam
from pipeline.models.architectures import segmenter_architecture
from pipeline.stages import UInt8Array
from pipeline.tiny import scenes
from tests.pipeline.judge import TOLERANCE, deviation, mask_pixels_off

pytestmark = pytest.mark.usefixtures("one_thread")

BUNDLE = resolve("tiny", "segmenter")
HALF = 2**-10  # what float16 keeps of a logit, generously


@pytest.fixture(scope="module")
def model() -> TextToMask:
    return TextToMask.from_pretrained("tiny")


@pytest.fixture(scope="module")
def picture() -> UInt8Array:
    drawn = scenes.draw(1, 150, 210, torch.Generator().manual_seed(21), objects=3)
    return drawn.images[0].round().byte().permute(1, 2, 0).contiguous().numpy()


@pytest.fixture(scope="module")
def predictor(picture: UInt8Array) -> Any:
    arch = segmenter_architecture(BUNDLE.architecture)
    official = sam.build(arch)
    load_weights(official, BUNDLE)
    judge = SamPredictor(official)
    judge.set_image(picture)
    return judge


BOXES = [[20, 30, 90, 110.5], [100, 10, 209, 149]]
POINTS = [[[50, 60, 1]], [[150, 80, 1], [5, 5, 0], [160, 90, 1]]]


def official(
    predictor: Any, box: Any = None, points: Any = None, mask_input: Any = None, multimask: bool = False
) -> tuple[Any, Any, Any]:
    """`SamPredictor.predict` for one prompt: masks, predicted IoUs, logits; best first."""
    points = None if points is None else np.array(points)
    masks, scores, low = predictor.predict(
        point_coords=None if points is None else points[:, :2],
        point_labels=None if points is None else points[:, 2],
        box=None if box is None else np.array(box),
        mask_input=None if mask_input is None else np.asarray(mask_input, np.float32)[None],
        multimask_output=multimask,
    )
    order = np.argsort(-scores)
    return masks[order], scores[order], low[order]


def check(found: MaskResult, expected: tuple[Any, Any, Any]) -> None:
    """All masks of one prompt."""
    assert found.low_res is not None
    for ours, mask, area in zip(found.iter_masks(), expected[0], found.areas, strict=True):
        assert mask_pixels_off(ours, mask) <= 0
        assert area == ours.sum()
    np.testing.assert_allclose(found.mask_scores, expected[1], atol=TOLERANCE)
    assert deviation(found.low_res.astype(np.float32), expected[2]) <= HALF


def row(result: MaskResult, number: int) -> MaskResult:
    assert result.low_res is not None
    return MaskResult(
        result.image_size,
        result.boxes[number : number + 1],
        result.rles[number : number + 1],
        result.mask_scores[number : number + 1],
        result.areas[number : number + 1],
        result.model,
        result.low_res[number : number + 1],
    )


@pytest.mark.parametrize(("boxes", "points"), [(BOXES, None), (None, POINTS), (BOXES, POINTS)])
def test_every_prompt_and_its_refinement(
    model: TextToMask, picture: UInt8Array, predictor: Any, boxes: Any, points: Any
) -> None:
    """All three masks of the first answer; then its logits go in again, and one mask comes out."""
    first = model.masks(picture, boxes=boxes, points=points, multimask=True, low_res=True)
    assert first.image_size == (150, 210)
    assert first.alternatives is not None
    assert first.low_res is not None
    second = model.masks(picture, boxes=boxes, points=points, mask_input=first.low_res, low_res=True)
    assert second.alternatives is None
    for number in range(2):
        prompt = (None if boxes is None else boxes[number], None if points is None else points[number])
        check(first.alternatives[number], official(predictor, *prompt, multimask=True))
        assert first.rles[number] == first.alternatives[number].rles[0]
        assert first.mask_scores[number] == first.alternatives[number].mask_scores[0]
        np.testing.assert_array_equal(first.low_res[number], first.alternatives[number].low_res[0])  # type: ignore[index]
        check(row(second, number), official(predictor, *prompt, mask_input=first.low_res[number]))


def test_text_with_multimask_takes_the_best_of_three(model: TextToMask, picture: UInt8Array, predictor: Any) -> None:
    result = model.predict(picture, "red, blue, green", box_threshold=0.05, multimask=True)
    assert len(result)
    assert result.mask_scores is not None
    for box, mask, score in zip(result.boxes, result.iter_masks(), result.mask_scores, strict=True):
        masks, scores, _ = official(predictor, box, multimask=True)
        assert mask_pixels_off(mask, masks[0]) <= 0
        assert score == pytest.approx(scores[0], abs=TOLERANCE)


def test_the_masks_of_text_are_those_of_its_boxes(model: TextToMask, picture: UInt8Array) -> None:
    found = model.predict(picture, "red, blue, green", box_threshold=0.05)
    again = model.masks(picture, boxes=found.boxes)
    assert again.rles == found.rles
    assert again.warnings == ()
    np.testing.assert_array_equal(again.boxes, found.boxes)


def test_a_box_beyond_the_image_is_the_clipped_one(model: TextToMask, picture: UInt8Array, predictor: Any) -> None:
    result = model.masks(picture, boxes=[[-40, 20, 90, 400]], low_res=True)
    assert result.boxes.tolist() == [[0, 20, 90, 150]]
    assert len(result.warnings) == 1
    check(result, official(predictor, [0, 20, 90, 150]))


def test_without_a_box_it_is_the_masks(model: TextToMask, picture: UInt8Array) -> None:
    result = model.masks(picture, points=POINTS)
    for box, mask in zip(result.boxes, result.iter_masks(), strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_many_prompts_are_those_one_by_one(model: TextToMask, picture: UInt8Array) -> None:
    """More than one pass takes, and more masks than are kept at a time, in their order."""
    random = np.random.default_rng(1)
    clicks = np.concatenate((random.uniform(0, 149, (100, 1, 2)), np.ones((100, 1, 1))), 2)
    many = model.masks(picture, points=clicks, multimask=True)
    assert len(many) == 100
    for number in (0, 31, 32, 63, 64, 99):
        alone = model.masks(picture, points=clicks[number], multimask=True)
        assert many.mask_scores[number] == pytest.approx(alone.mask_scores[0], abs=1e-3)
        (ours,), (theirs,) = list(row_masks(many, number)), list(alone.iter_masks())
        assert mask_pixels_off(ours, theirs) <= 0


def row_masks(result: MaskResult, number: int) -> Any:
    return (mask for index, mask in enumerate(result.iter_masks()) if index == number)


def test_every_kind_of_image_gives_the_same_answer(model: TextToMask, picture: UInt8Array, tmp_path: Path) -> None:
    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(file.getvalue())
    expected = model.masks(picture, boxes=BOXES)
    for image in (Image.fromarray(picture), file.getvalue(), str(path)):
        assert model.masks(image, boxes=BOXES) == expected
    assert set(expected.timings_ms) == {"encode", "masks", "total"}


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({}, "boxes"),
        ({"boxes": [[5, 5, 5, 9]]}, "boxes[0]"),
        ({"points": [[5, 5, 2]]}, "points[0]"),
        ({"boxes": BOXES, "points": POINTS[:1]}, "points"),
    ],
)
def test_bad_prompts_are_refused_before_the_image_is_read(
    model: TextToMask, arguments: dict[str, Any], param: str
) -> None:
    with pytest.raises(StageError) as refused:
        model.masks("no such file", **arguments)
    assert (refused.value.code, refused.value.param) == ("invalid_value", param)


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"boxes": [[300, 0, 400, 50]]}, "boxes[0]"),
        ({"points": [[211, 5, 1]]}, "points[0]"),
        ({"boxes": BOXES[:1], "mask_input": np.zeros((1, 8, 8))}, "mask_input"),
    ],
)
def test_prompts_that_do_not_fit_the_image_or_the_model(
    model: TextToMask, picture: UInt8Array, arguments: dict[str, Any], param: str
) -> None:
    with pytest.raises(StageError) as refused:
        model.masks(picture, **arguments)
    assert (refused.value.code, refused.value.param) == ("invalid_value", param)
