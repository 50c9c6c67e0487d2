"""What a query's arguments become, and which of them are refused by their type or value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import StageError
from pipeline.prompt import Prompt
from pipeline.query import read_query
from pipeline.selection import SelectionOptions
from pipeline.stages import DetectRequest

PROMPT: Prompt = ["red", {"text": "star", "box_threshold": 0.25}]


def test_each_argument_goes_to_where_it_belongs() -> None:
    request, options = read_query(
        PROMPT,
        negative_prompt="a, b",
        box_threshold=0.1,
        text_threshold=0.2,
        nms="agnostic",
        nms_threshold=0.3,
        negative_iou=0.4,
        min_area=0.01,
        max_area=0.9,
        max_detections=7,
    )
    assert [(one.class_id, one.label, one.box_threshold) for one in request.classes] == [
        (0, "red", None),
        (1, "star", 0.25),
    ]
    assert [one.label for one in request.negatives] == ["a", "b"]
    assert (request.box_threshold, request.text_threshold, request.top_k) == (0.1, 0.2, None)
    assert options == SelectionOptions("agnostic", 0.3, 0.4, 0.01, 0.9, 7)
    assert read_query("red") == (DetectRequest(request.classes[:1]), SelectionOptions())


def test_raw_mode_asks_for_the_best_pairs_without_nms() -> None:
    request, options = read_query(PROMPT, raw=True, nms="agnostic", max_area=0.5, max_detections=7)
    assert request.top_k == 7
    assert options == SelectionOptions("off", max_area=0.5, max_detections=7)
    with pytest.raises(StageError) as refused:
        read_query(PROMPT, raw=True, negative_prompt="a")
    assert refused.value.param == "raw"


def test_mode_is_of_both_prompts() -> None:
    request, _ = read_query("a, b", negative_prompt="c, d", mode="phrase")
    assert [one.label for one in (*request.classes, *request.negatives)] == ["a, b", "c, d"]


FRACTIONS = ("box_threshold", "text_threshold", "nms_threshold", "negative_iou", "min_area", "max_area")
NO_FRACTIONS = ["0.3", True, np.bool_(True), b"1", [0.3], np.array([0.3]), 1j, float("nan"), np.float32("nan"), -0.1, 2]


@pytest.mark.parametrize("value", NO_FRACTIONS, ids=repr)
@pytest.mark.parametrize("name", FRACTIONS)
def test_a_fraction_is_a_number_from_0_to_1(name: str, value: Any) -> None:
    with pytest.raises(StageError) as refused:
        read_query("red", **{name: value})
    assert (refused.value.code, refused.value.param) == ("invalid_value", name)
    assert refused.value.message == "must be a number from 0 to 1"


@pytest.mark.parametrize("name", FRACTIONS[2:])
def test_only_a_threshold_of_the_bundle_may_be_none(name: str) -> None:
    assert read_query("red", box_threshold=None, text_threshold=None)[0].box_threshold is None
    with pytest.raises(StageError) as refused:
        read_query("red", **{name: None})  # type: ignore[arg-type]
    assert refused.value.param == name


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    "value", ["5", None, 2.5, 5.0, np.float32(5), True, np.bool_(True), 0, -1, np.int64(0)], ids=repr
)
def test_max_detections_is_an_integer(value: Any, raw: bool) -> None:
    with pytest.raises(StageError) as refused:
        read_query("red", max_detections=value, raw=raw)
    assert (refused.value.code, refused.value.param) == ("invalid_value", "max_detections")


def test_numbers_of_numpy_become_those_of_python() -> None:
    request, options = read_query(
        [{"text": "red", "box_threshold": np.float32(0.3)}],
        box_threshold=np.float32(0.25),  # type: ignore[arg-type]
        text_threshold=np.float64(0.2),
        nms_threshold=np.float16(0.5),  # type: ignore[arg-type]
        min_area=np.int64(0),  # type: ignore[arg-type]
        max_detections=np.int64(5),  # type: ignore[arg-type]
        raw=True,
    )
    given: Any = (
        request.classes[0].box_threshold,
        request.box_threshold,
        request.text_threshold,
        request.top_k,
        options.nms_threshold,
        options.min_area,
        options.max_detections,
    )
    assert given == (float(np.float32(0.3)), 0.25, 0.2, 5, 0.5, 0.0, 5)
    assert [type(one) for one in given] == [float, float, float, int, float, float, int]


def test_a_number_too_large_for_a_float_is_out_of_range() -> None:
    with pytest.raises(StageError, match="box_threshold"):
        read_query("red", box_threshold=10**400)
