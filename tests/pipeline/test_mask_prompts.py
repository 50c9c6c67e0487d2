"""What boxes, points and earlier masks may be, and what becomes of them inside an image. No model."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StageError
from pipeline.mask_prompts import MAX_INSTANCES, MAX_LOW_RES, MAX_POINTS, fit, parse_mask_prompts
from pipeline.stages import DecodeOptions, MaskPrompts

BOX, POINT = [1, 2, 30, 40], [5, 6, 1]
LOW_RES = np.zeros((8, 8), np.float16)


def parse(
    boxes: Any = None, points: Any = None, mask_input: Any = None, *, multimask: bool = False, low_res: bool = False
) -> MaskPrompts:
    return parse_mask_prompts(boxes, points, mask_input, DecodeOptions(multimask, low_res))


def test_boxes_become_float32() -> None:
    prompts = parse([BOX, (0.5, 0, 9, 9.25)])
    assert prompts.boxes is not None
    assert prompts.boxes.dtype == np.float32
    assert prompts.boxes.tolist() == [[1, 2, 30, 40], [0.5, 0, 9, 9.25]]
    assert (prompts.points, prompts.mask_inputs, len(prompts)) == (None, None, 2)


@pytest.mark.parametrize(
    ("points", "lengths"),
    [
        ([POINT], [1]),
        ([POINT, [1, 2, 0]], [2]),
        ([[POINT, [1, 2, 0]]], [2]),
        ([[POINT], [POINT, POINT]], [1, 2]),
        (np.array([POINT, POINT]), [2]),
        (np.array([[POINT, POINT]] * 3), [2, 2, 2]),
        ([np.array([POINT]), np.array([POINT, POINT])], [1, 2]),
        ((tuple(POINT),), [1]),
    ],
)
def test_points_are_of_one_instance_or_a_list_each(points: Any, lengths: list[int]) -> None:
    prompts = parse(points=points)
    assert prompts.points is not None
    assert [len(one) for one in prompts.points] == lengths
    assert all(one.shape[1] == 3 and one.dtype == np.float32 for one in prompts.points)
    assert prompts.points[0][0].tolist() == POINT


def test_an_instance_with_a_box_may_have_no_points() -> None:
    prompts = parse([BOX, BOX], [[], [POINT]])
    assert prompts.points is not None
    assert [one.shape for one in prompts.points] == [(0, 3), (1, 3)]
    assert [one.shape for one in parse([BOX], [[]]).points or ()] == [(0, 3)]


def test_masks_become_float32() -> None:
    prompts = parse([BOX], mask_input=[LOW_RES])
    assert prompts.mask_inputs is not None
    assert prompts.mask_inputs.shape == (1, 8, 8)
    assert prompts.mask_inputs.dtype == np.float32


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({}, "boxes"),
        ({"mask_input": [LOW_RES]}, "boxes"),
        ({"boxes": []}, "boxes"),
        ({"boxes": BOX}, "boxes"),
        ({"boxes": [[1, 2, 3]]}, "boxes"),
        ({"boxes": [BOX, [1, 2, 3]]}, "boxes"),
        ({"boxes": [[1, 2, 3, 4, 5]]}, "boxes"),
        ({"boxes": [["1", "2", "3", "4"]]}, "boxes"),
        ({"boxes": [[None, 2, 3, 4]]}, "boxes"),
        ({"boxes": "1234"}, "boxes"),
        ({"boxes": 5}, "boxes"),
        ({"boxes": {"x": 1}}, "boxes"),
        ({"boxes": [[10**400, 0, 1, 1]]}, "boxes"),
        ({"boxes": [[0, 0, 10**400, 1.5]]}, "boxes"),
        ({"boxes": [[0, 0, 1e300, 1]]}, "boxes"),
        ({"boxes": [BOX, [0, 0, NAN, 1]]}, "boxes"),
        ({"boxes": [[0, 0, INF, 1]]}, "boxes"),
        ({"boxes": [[0, 0, 1j, 1]]}, "boxes"),
        ({"boxes": [BOX, [5, 5, 5, 9]]}, "boxes[1]"),
        ({"boxes": [[5, 9, 9, 5]]}, "boxes[0]"),
        ({"boxes": [BOX] * (MAX_INSTANCES + 1)}, "boxes"),
        ({"points": []}, "points"),
        ({"points": [[]]}, "points[0]"),
        ({"points": [[POINT], []]}, "points[1]"),
        ({"points": [POINT, [POINT]]}, "points[0]"),
        ({"points": [[POINT], POINT]}, "points[0]"),
        ({"points": [[1, 2]]}, "points[0]"),
        ({"points": [[1, 2, 3, 4]]}, "points[0]"),
        ({"points": [[1, 2, 2]]}, "points[0]"),
        ({"points": [[1, 2, -1]]}, "points[0]"),
        ({"points": [[1, 2, 0.5]]}, "points[0]"),
        ({"points": [[POINT], [[1, 2, 3]]]}, "points[1]"),
        ({"points": [[1, NAN, 1]]}, "points[0]"),
        ({"points": [[POINT], [[INF, 1, 1]]]}, "points[1]"),
        ({"points": [[[[1, 2, 1]]]]}, "points[0]"),
        ({"points": 5}, "points"),
        ({"points": [5]}, "points"),
        ({"points": "abc"}, "points[0]"),
        ({"points": [{1: 2}]}, "points"),
        ({"points": [POINT] * (MAX_POINTS + 1)}, "points[0]"),
        ({"points": [[POINT]] * (MAX_INSTANCES + 1)}, "points"),
        ({"boxes": [BOX], "points": [[POINT], [POINT]]}, "points"),
        ({"boxes": [BOX, BOX], "points": [POINT, POINT]}, "points"),
        ({"boxes": [BOX, BOX], "mask_input": [LOW_RES]}, "mask_input"),
        ({"points": [POINT], "mask_input": [LOW_RES] * 2}, "mask_input"),
        ({"boxes": [BOX], "mask_input": []}, "mask_input"),
        ({"boxes": [BOX], "mask_input": LOW_RES}, "mask_input"),
        ({"boxes": [BOX], "mask_input": [LOW_RES[:, :4]]}, "mask_input"),
        ({"boxes": [BOX] * 2, "mask_input": [LOW_RES, LOW_RES[:4, :4]]}, "mask_input"),
        ({"boxes": [BOX], "mask_input": [LOW_RES + NAN]}, "mask_input"),
        ({"boxes": [BOX], "mask_input": [LOW_RES > 0]}, "mask_input"),
        ({"boxes": [BOX] * (MAX_LOW_RES + 1), "mask_input": [LOW_RES] * (MAX_LOW_RES + 1)}, "mask_input"),
        ({"boxes": [BOX] * (MAX_LOW_RES + 1), "low_res": True}, "low_res"),
    ],
)
def test_what_may_not_be_names_its_field(arguments: dict[str, Any], param: str) -> None:
    with pytest.raises(StageError) as refused:
        parse(**arguments)
    assert (refused.value.code, refused.value.param) == ("invalid_value", param)


def test_the_limits_themselves_are_allowed() -> None:
    assert len(parse([BOX] * MAX_INSTANCES, [[POINT]] * MAX_INSTANCES, multimask=True)) == MAX_INSTANCES
    assert len(parse(points=[[POINT] * MAX_POINTS]).points or ()) == 1
    assert len(parse([BOX] * MAX_LOW_RES, mask_input=[LOW_RES] * MAX_LOW_RES, low_res=True)) == MAX_LOW_RES


def test_boxes_are_clipped_and_the_caller_is_told() -> None:
    given = parse([[-3, 2, 30, 40], [1, 1, 50.5, 60.5], BOX])
    prompts, warnings = fit(given, (60, 50))
    assert prompts.boxes is not None
    assert prompts.boxes.tolist() == [[0, 2, 30, 40], [1, 1, 50, 60], BOX]
    assert len(warnings) == 1
    assert warnings[0].startswith("2 of the boxes")
    assert fit(parse([[0, 0, 50, 60]]), (60, 50))[1] == ()


@pytest.mark.parametrize("box", [[-9, 0, 0, 5], [50, 0, 60, 5], [0, -9, 5, -1], [0, 60, 5, 61], [1e8, 0, 2e8, 5]])
def test_a_box_outside_the_image_is_refused(box: list[float]) -> None:
    with pytest.raises(StageError) as refused:
        fit(parse([BOX, box]), (60, 50))
    assert refused.value.param == "boxes[1]"


def test_points_are_not_moved() -> None:
    prompts, warnings = fit(parse(points=[[0, 0, 1], [50, 60, 0]]), (60, 50))  # the edges belong to the image
    assert prompts.points is not None
    assert prompts.points[0].tolist() == [[0, 0, 1], [50, 60, 0]]
    assert warnings == ()


@pytest.mark.parametrize("point", [[-0.5, 0, 1], [0, -0.5, 1], [50.5, 0, 1], [0, 60.5, 0]])
def test_a_point_outside_the_image_is_refused(point: list[float]) -> None:
    with pytest.raises(StageError) as refused:
        fit(parse([BOX, BOX], [[POINT], [POINT, point]]), (60, 50))
    assert refused.value.param == "points[1]"
    assert "point 1 " in refused.value.message


scalars = st.none() | st.booleans() | st.integers(-5, 60) | st.floats() | st.text(max_size=2)
nested = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
sensible = st.lists(st.lists(st.floats(0, 60), min_size=4, max_size=4), min_size=1, max_size=3)


@settings(max_examples=300, deadline=None)
@given(st.none() | nested | sensible, st.none() | nested, st.none() | nested)
def test_anything_is_parsed_or_refused(boxes: Any, points: Any, mask_input: Any) -> None:
    with suppress(StageError):  # anything else fails the test
        check(fit(parse(boxes, points, mask_input), (60, 50))[0])


def check(prompts: MaskPrompts) -> None:
    assert 1 <= len(prompts) <= MAX_INSTANCES
    if prompts.boxes is not None:
        assert (prompts.boxes[:, 2:] > prompts.boxes[:, :2]).all()
        assert (prompts.boxes >= 0).all()
        assert (prompts.boxes <= np.array([50, 60, 50, 60])).all()
    for one in prompts.points or ():
        assert set(one[:, 2]) <= {0, 1}
        assert np.isfinite(one).all()
        assert len(one) or prompts.boxes is not None
