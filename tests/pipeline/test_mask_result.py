"""The answer to boxes and points: its JSON, its bounding boxes, and logits that survive the way there and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.errors import StageError
from pipeline.formats.low_res import half, low_res_json, read_low_res
from pipeline.mask_result import MaskResult, assemble_masks, bounding_box
from pipeline.masks import decode, encode
from pipeline.stages import MaskPrompts, Masks

SIZE = (20, 30)


def square(x: int, y: int, side: int) -> Any:
    mask = np.zeros(SIZE, np.bool_)
    mask[y : y + side, x : x + side] = True
    return mask


def masks_of(*masks: Any, low_res: bool = False) -> Masks:
    count = len(masks)
    return Masks(
        tuple(encode(mask) for mask in masks),
        np.linspace(0.9, 0.5, count, dtype=np.float32),
        np.array([mask.sum() for mask in masks], np.int32),
        np.random.default_rng(count).normal(0, 9, (count, 8, 8)).astype(np.float32) if low_res else None,
    )


def with_alternatives(low_res: bool) -> Masks:
    alternatives = tuple(
        masks_of(square(x, 2, 9), square(x + 1, 3, 7), square(0, 0, 0), low_res=low_res) for x in (0, 12)
    )
    firsts = [one.low_res[0] for one in alternatives if one.low_res is not None]
    return Masks(
        tuple(one.rles[0] for one in alternatives),
        np.array([one.mask_scores[0] for one in alternatives], np.float32),
        np.array([one.areas[0] for one in alternatives], np.int32),
        np.stack(firsts) if firsts else None,
        alternatives,
    )


BOXES = MaskPrompts(boxes=np.array([[0.1, 2.5, 9, 11], [12, 2, 21, 11]], np.float32))
POINTS = MaskPrompts(points=(np.array([[3, 3, 1]], np.float32),) * 2)


def result_of(prompts: MaskPrompts, masks: Masks) -> MaskResult:
    return assemble_masks(prompts, masks, SIZE, model="tiny+tiny", warnings=("careful",))


@pytest.mark.parametrize("form", ["rle", "polygon", "png"])
@pytest.mark.parametrize("low_res", [False, True])
@pytest.mark.parametrize("prompts", [BOXES, POINTS], ids=["boxes", "points"])
@pytest.mark.parametrize("multimask", [False, True])
def test_json_and_back(form: Any, low_res: bool, prompts: MaskPrompts, multimask: bool) -> None:
    masks = with_alternatives(low_res) if multimask else masks_of(square(3, 3, 5), square(0, 0, 0), low_res=low_res)
    result = result_of(prompts, masks)
    text = "".join(result.json_pieces(form))
    assert json.loads(text) == result.to_json(form)
    assert MaskResult.from_json(json.loads(text)) == result
    keys = {"box", "mask", "mask_score", "area"} | ({"low_res"} if low_res else set())
    for found in json.loads(text)["detections"]:
        assert set(found) == keys | ({"alternatives"} if multimask else set())
        for alternative in found.get("alternatives", ()):
            assert set(alternative) == keys
        if multimask:
            assert found["alternatives"][0] == {name: found[name] for name in keys}


def test_the_box_is_the_prompts_or_else_the_masks() -> None:
    masks = masks_of(square(3, 4, 5), square(0, 0, 0))
    boxed = result_of(BOXES, masks).to_json()["detections"]
    assert [found["box"] for found in boxed] == [[0.1, 2.5, 9, 11], [12, 2, 21, 11]]
    free = result_of(POINTS, masks).to_json()["detections"]
    assert [found["box"] for found in free] == [[3, 4, 8, 9], None]
    every = result_of(POINTS, with_alternatives(low_res=False)).to_json()["detections"][1]["alternatives"]
    assert [found["box"] for found in every] == [[12, 2, 21, 11], [13, 3, 20, 10], None]


def test_without_masks_all_else_is_there() -> None:
    answer = result_of(BOXES, masks_of(square(3, 4, 5), square(1, 1, 2))).to_json("none")
    assert [(found["mask"], found["area"]) for found in answer["detections"]] == [(None, 25), (None, 4)]


@pytest.mark.parametrize("form", ["svg", "", None])
def test_another_form_is_refused_at_once_whatever_was_found(form: Any) -> None:
    nothing = result_of(MaskPrompts(boxes=np.zeros((0, 4), np.float32)), Masks.empty())
    for result in (nothing, result_of(BOXES, masks_of(square(3, 4, 5), square(1, 1, 2)))):
        for write in (result.to_json, result.json_pieces):
            with pytest.raises(ValueError, match="'polygon'"):
                write(form)


def test_masks_are_decoded() -> None:
    result = result_of(BOXES, masks_of(square(3, 4, 5), square(1, 1, 2)))
    assert len(result) == 2
    np.testing.assert_array_equal(result.masks, np.stack([square(3, 4, 5), square(1, 1, 2)]))


@pytest.mark.parametrize(
    "change",
    [
        {"image": {"width": 30}},
        {"detections": [{}]},
        {"detections": 5},
        {"model": None, "image": None},
    ],
)
def test_another_answer_is_refused(change: dict[str, Any]) -> None:
    answer = result_of(BOXES, masks_of(square(3, 4, 5), square(1, 1, 2))).to_json() | change
    with pytest.raises(ValueError, match="no answer"):
        MaskResult.from_json(answer)


@settings(max_examples=100, deadline=None)
@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_bounding_box(mask: Any) -> None:
    rows, columns = np.nonzero(decode(encode(mask)))
    box = bounding_box(encode(mask))
    if len(rows):
        assert box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    else:
        assert np.isnan(box).all()


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, (4, 4), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_logits_there_and_back(logits: Any) -> None:
    halved = half(logits)
    assert np.isfinite(halved).all()
    np.testing.assert_allclose(halved.astype(np.float64), np.clip(logits, -65504, 65504), rtol=2**-11, atol=2**-25)
    read = read_low_res(json.loads(json.dumps(low_res_json(halved))))
    assert read.dtype == np.float16
    np.testing.assert_array_equal(read, halved)


def test_logits_are_little_endian_row_by_row() -> None:
    assert low_res_json(np.array([[1, 0], [0, -2]], np.float16)) == {
        "shape": [2, 2],
        "dtype": "float16",
        "data": "ADwAAAAAAMA=",  # 00 3c, 00 00, 00 00, 00 c0
    }


GOOD = low_res_json(np.zeros((4, 4), np.float16))


@pytest.mark.parametrize(
    "given_",
    [
        {},
        GOOD | {"dtype": "float32"},
        GOOD | {"shape": [4, 5]},
        GOOD | {"shape": [2, 8]},
        GOOD | {"shape": [4]},
        GOOD | {"shape": [-4, -4]},
        GOOD | {"shape": [0, 0], "data": ""},
        GOOD | {"shape": [257, 257], "data": low_res_json(np.zeros((257, 257), np.float16))["data"]},
        GOOD | {"shape": "44"},
        GOOD | {"data": GOOD["data"][:-4]},
        GOOD | {"data": GOOD["data"] + "AAAA"},
        GOOD | {"data": "!" + GOOD["data"][1:]},
        GOOD | {"data": "=" * len(GOOD["data"])},
        GOOD | {"data": GOOD["data"].replace("=", "A")},
        GOOD | {"data": "ä" + GOOD["data"][1:]},
        GOOD | {"data": 5},
    ],
)
def test_other_logits_are_refused(given_: dict[str, Any]) -> None:
    with pytest.raises(StageError) as refused:
        read_low_res(given_)
    assert (refused.value.code, refused.value.param) == ("invalid_value", "mask_input")
