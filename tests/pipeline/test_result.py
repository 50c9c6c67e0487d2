from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from pipeline.errors import StageError
from pipeline.formats.masks import MaskForm
from pipeline.masks import encode
from pipeline.result import Result

HEIGHT, WIDTH = 48, 64


def two_masks() -> np.ndarray[Any, np.dtype[np.bool_]]:
    masks = np.zeros((2, HEIGHT, WIDTH), np.bool_)
    masks[0, 10:30, 5:25] = True
    masks[0, 15:20, 10:15] = False
    masks[1, 40:48, 60:64] = True
    return masks


def example(**changes: Any) -> Result:
    masks = two_masks()
    values: dict[str, Any] = {
        "image_size": (HEIGHT, WIDTH),
        "labels": ("Red circle", "猫"),
        "class_ids": np.array([0, 2], np.int32),
        "scores": np.array([0.83, 0.4], np.float32),
        "text_scores": np.array([0.71, 0.1], np.float32),
        "boxes": np.array([[5, 10, 25.1, 30], [60, 40, 64, 48]], np.float32),
        "rles": tuple(encode(mask) for mask in masks),
        "mask_scores": np.array([0.93, 1 / 3], np.float32),
        "areas": masks.sum(axis=(1, 2)).astype(np.int32),
        "model": "tiny+tiny",
        "timings_ms": {"detect": 40.1, "total": 61.0},
        "removed": {"negatives": 0, "nms": 1, "area": 0, "cap": 0},
        "warnings": ("mind the gap",),
    }
    return Result(**{**values, **changes})


def empty() -> Result:
    none = np.zeros(0, np.float32)
    ids = np.zeros(0, np.int32)
    return Result((HEIGHT, WIDTH), (), ids, none, none, np.zeros((0, 4), np.float32), (), none, ids, "tiny+tiny")


# ---- masks


def test_masks_are_decoded_on_access() -> None:
    result = example()
    np.testing.assert_array_equal(result.masks, two_masks())
    assert result.masks.dtype == np.bool_
    for got, expected in zip(result.iter_masks(), two_masks(), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_nothing_found() -> None:
    result = empty()
    assert len(result) == 0
    assert result.masks.shape == (0, HEIGHT, WIDTH)
    assert result.masks.dtype == np.bool_
    assert list(result.iter_masks()) == []
    assert result.to_json()["detections"] == []
    assert Result.from_json(result.to_json()) == result
    assert Result.from_json(result.to_json()).boxes.shape == (0, 4)


def test_without_masks() -> None:
    result = example(rles=None, mask_scores=None, areas=None)
    for call in (lambda: result.masks, result.iter_masks):
        with pytest.raises(ValueError, match="none were asked for"):
            call()
    (first, _) = result.to_json()["detections"]
    assert (first["mask"], first["mask_score"], first["area"]) == (None, None, None)
    assert Result.from_json(result.to_json()) == result
    assert result != example()


# ---- JSON


def test_json_is_the_answer_of_the_interface() -> None:
    counts = coco.encode(np.asfortranarray(two_masks()[0].astype(np.uint8)))["counts"].decode()
    answer = example(id="r-1", image_id="ab12").to_json()
    assert list(answer) == ["id", "model", "image", "detections", "timings_ms", "passes", "removed", "warnings"]
    assert answer["id"] == "r-1"
    assert answer["image"] == {"id": "ab12", "width": WIDTH, "height": HEIGHT}
    assert answer["model"] == "tiny+tiny"
    assert answer["detections"][0] == {
        "class_id": 0,
        "label": "Red circle",
        "score": 0.83,
        "text_score": 0.71,
        "box": [5.0, 10.0, 25.1, 30.0],
        "mask": {"format": "rle", "size": [HEIGHT, WIDTH], "counts": counts},
        "mask_score": 0.93,
        "area": 375,
    }
    assert answer["timings_ms"] == {"detect": 40.1, "total": 61.0}
    assert answer["passes"] == 1
    assert answer["removed"] == {"negatives": 0, "nms": 1, "area": 0, "cap": 0}
    assert answer["warnings"] == ["mind the gap"]


def test_ids_appear_only_where_known() -> None:
    answer = example().to_json()
    assert "id" not in answer
    assert "id" not in answer["image"]


def test_json_round_trip() -> None:
    result = example(id="r-1", image_id="ab12")
    read = Result.from_json(json.loads(json.dumps(result.to_json())))
    assert read == result
    assert read.to_json() == result.to_json()
    assert (read.id, read.image_id, read.timings_ms) == ("r-1", "ab12", {"detect": 40.1, "total": 61.0})
    for name in ("class_ids", "scores", "text_scores", "boxes", "mask_scores", "areas"):
        assert getattr(read, name).dtype == getattr(result, name).dtype


@pytest.mark.parametrize("form", ["polygon", "png"])
def test_json_round_trip_in_other_forms(form: MaskForm) -> None:
    result = example(id="r-1")
    answer = json.loads(json.dumps(result.to_json(masks=form)))
    assert {item["mask"]["format"] for item in answer["detections"]} == {form}
    assert {**answer, "detections": 0} == {**result.to_json(), "detections": 0}
    assert Result.from_json(answer) == result
    assert Result.from_json(empty().to_json(masks=form)) == empty()
    boxes = example(rles=None, mask_scores=None, areas=None)
    assert boxes.to_json(masks=form) == boxes.to_json()


@pytest.mark.parametrize("form", ["rle", "polygon", "png"])
def test_the_pieces_of_the_text_add_up_to_the_answer(form: MaskForm) -> None:
    for result in (example(id="r-1"), empty(), example(rles=None, mask_scores=None, areas=None)):
        assert json.loads("".join(result.json_pieces(form))) == result.to_json(form)
        assert list(json.loads("".join(result.json_pieces(form)))) == list(result.to_json(form))


def test_without_masks_it_is_as_if_none_had_been_asked_for() -> None:
    unmasked = example(rles=None, mask_scores=None, areas=None)
    answer = example().to_json("none")
    assert answer == unmasked.to_json() == unmasked.to_json("none")
    assert json.loads("".join(example().json_pieces("none"))) == answer
    assert Result.from_json(answer) == unmasked
    assert empty().to_json("none")["detections"] == []


@pytest.mark.parametrize("form", ["svg", "", "RLE", None, 1, []])
def test_another_form_is_refused_at_once_whatever_was_found(form: Any) -> None:
    for result in (example(), empty(), example(rles=None, mask_scores=None, areas=None)):
        for write in (result.to_json, result.json_pieces):
            with pytest.raises(ValueError, match="'polygon'"):
                write(form)


@pytest.mark.parametrize("form", ["polygon", "png"])
def test_one_mask_at_a_time_is_in_memory(form: MaskForm) -> None:
    side, count = 1000, 40
    mask = np.zeros((side, side), np.bool_)
    mask[100:900, 100:900] = True
    many = np.zeros(count, np.float32)
    result = example(
        image_size=(side, side),
        labels=("a",) * count,
        class_ids=np.zeros(count, np.int32),
        scores=many,
        text_scores=many,
        boxes=np.zeros((count, 4), np.float32),
        rles=(encode(mask),) * count,
        mask_scores=many,
        areas=np.zeros(count, np.int32),
    )
    tracemalloc.start()
    try:
        assert len("".join(result.json_pieces(form))) > 100 * count
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < count * side * side / 2


@settings(derandomize=True, deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_every_float32_survives_json(value: float) -> None:
    result = example(scores=np.array([value, 0], np.float32))
    read = Result.from_json(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(read.scores, result.scores)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answer: answer.pop("detections"),
        lambda answer: answer.pop("image"),
        lambda answer: answer["detections"][0].pop("box"),
        lambda answer: answer["detections"][0].update(box=[1, 2, 3]),
        lambda answer: answer["detections"][0].update(mask_score=None),
        lambda answer: answer["detections"][0]["mask"].update(format="polygon"),
        lambda answer: answer["detections"][1].update(mask=None),
        lambda answer: answer["detections"][0].update(area=2**40),
        lambda answer: answer.update(image=3),
    ],
)
def test_another_answer_is_refused(spoil: Any) -> None:
    answer = copy.deepcopy(example().to_json())
    spoil(answer)
    with pytest.raises(ValueError, match=r"."):
        Result.from_json(answer)
    with pytest.raises(ValueError, match="no answer"):
        Result.from_json({"error": {"code": "overloaded"}})


def test_damaged_counts_are_found_when_the_mask_is_read() -> None:
    answer = copy.deepcopy(example().to_json())
    answer["detections"][0]["mask"]["counts"] = "012"
    with pytest.raises(StageError):
        _ = Result.from_json(answer).masks


# ---- equality


def test_equality_is_on_what_is_said_of_the_image() -> None:
    assert example() == example(id="other", image_id="other", timings_ms={})
    assert example() != "a result"
    with pytest.raises(TypeError):
        hash(example())


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": (1, 2)},
        {"labels": ("red circle", "猫")},
        {"class_ids": np.array([0, 1], np.int32)},
        {"scores": np.array([0.83, 0.41], np.float32)},
        {"text_scores": np.array([0.7, 0.1], np.float32)},
        {"boxes": np.zeros((2, 4), np.float32)},
        {"rles": (encode(two_masks()[1]), encode(two_masks()[1]))},
        {"rles": None},
        {"mask_scores": np.zeros(2, np.float32)},
        {"areas": None},
        {"model": "other"},
        {"passes": 2},
        {"removed": {}},
        {"warnings": ()},
    ],
)
def test_any_difference_counts(changes: dict[str, Any]) -> None:
    assert replace(example(), **changes) != example()


def test_pickles() -> None:
    assert pickle.loads(pickle.dumps(example())) == example()


def test_a_result_needs_neither_torch_nor_pil() -> None:
    code = "import sys, pipeline.result; sys.exit(bool({'torch', 'PIL', 'tokenizers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_overlay_is_that_of_the_overlay_module() -> None:
    from pipeline.overlay import draw

    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    np.testing.assert_array_equal(example().overlay(image), draw(image, example()))
