"""Label Studio's tasks, read bit by bit as its format is described; its own code reads them in tests/other_programs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.formats.label_studio import brush_rle
from pipeline.masks import encode
from pipeline.polygon_fill import fill
from tests.pipeline.formats.scene import HEIGHT, WIDTH, boxes_only, masks, nothing_found, one_mask_empty, result

Array = np.ndarray[Any, Any]


def unpacked(data: list[int]) -> Array:
    """The words of a stream in the format rle-pack, one bit after the other."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    words: list[int] = []
    while len(words) < total:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        words += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    assert len(words) == total
    assert 0 < len(bits) - place <= 8
    assert set(bits[place:]) == {"0"}
    return np.array(words)


def regions(task: dict[str, Any]) -> list[dict[str, Any]]:
    (prediction,) = task["predictions"]
    found: list[dict[str, Any]] = prediction["result"]
    return found


def test_the_task() -> None:
    task = json.loads(json.dumps(result().to_label_studio("https://images.example/猫.jpg", to_name="picture")))
    assert task["data"] == {"image": "https://images.example/猫.jpg"}
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "tiny+tiny"
    assert prediction["score"] == pytest.approx(np.mean([0.9, 0.83, 0.4, 0.3]))
    assert len({region["id"] for region in prediction["result"]}) == 4
    for region, label, score in zip(prediction["result"], result().labels, [0.9, 0.83, 0.4, 0.3], strict=True):
        assert region["type"] == "brushlabels"
        assert (region["from_name"], region["to_name"]) == ("label", "picture")
        assert (region["original_width"], region["original_height"]) == (WIDTH, HEIGHT)
        assert (region["image_rotation"], region["score"]) == (0, score)
        assert region["value"]["brushlabels"] == [label]
        assert region["value"]["format"] == "rle"


def test_brushes_are_the_masks() -> None:
    found = regions(result().to_label_studio("a.jpg", brush="b"))
    for region, mask in zip(found, masks(), strict=True):
        picture = unpacked(region["value"]["rle"]).reshape(HEIGHT, WIDTH, 4)
        np.testing.assert_array_equal(picture, np.repeat(mask[..., None] * 255, 4, axis=2))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 15), st.integers(1, 15))))
def test_any_mask_is_read_back(mask: Array) -> None:
    words = unpacked(brush_rle(encode(mask)).tolist())
    np.testing.assert_array_equal(words, np.repeat(mask.ravel() * 255, 4))


@pytest.mark.parametrize("pixels", [1, 2, 3, 4, 5, 63, 64, 65, 2**14 - 1, 2**14, 2**14 + 1, 2**15, 3 * 2**14 + 7])
def test_runs_of_every_length(pixels: int) -> None:
    mask = np.zeros((1, pixels + 9), np.bool_)
    mask[0, 4 : 4 + pixels] = True
    np.testing.assert_array_equal(unpacked(brush_rle(encode(mask)).tolist()), np.repeat(mask.ravel() * 255, 4))


def test_polygons_are_the_masks() -> None:
    found = regions(result().to_label_studio("a.jpg", polygon="p"))
    assert len({region["id"] for region in found}) == len(found)
    for label, score, mask in zip(result().labels, [0.9, 0.83, 0.4, 0.3], masks(), strict=True):
        mine = [region for region in found if region["score"] == score]
        assert {region["from_name"] for region in mine} == {"p"}
        assert all(region["value"]["polygonlabels"] == [label] and region["value"]["closed"] for region in mine)
        rings = [np.array(region["value"]["points"]) / 100 * [WIDTH, HEIGHT] for region in mine]
        assert fill([[ring.round(9)] for ring in rings], mask.shape) == encode(mask)


def test_rectangles_are_percent_of_the_image() -> None:
    for found in (
        regions(boxes_only().to_label_studio("a.jpg")),
        regions(result().to_label_studio("a.jpg", rectangle="label")),
    ):
        assert [region["type"] for region in found] == ["rectanglelabels"] * 4
        assert {region["from_name"] for region in found} == {"label"}
        value = found[3]["value"]
        assert value["rectanglelabels"] == ["stern"]
        assert value["rotation"] == 0
        share = [value[name] / 100 for name in ("x", "y", "width", "height")]
        np.testing.assert_allclose(share, [29.5 / WIDTH, 2 / HEIGHT, 7.75 / WIDTH, 8 / HEIGHT])


def test_several_kinds_at_once() -> None:
    found = regions(result().to_label_studio("a.jpg", brush="b", rectangle="r"))
    assert [(region["from_name"], region["type"]) for region in found[:2]] == [
        ("b", "brushlabels"),
        ("r", "rectanglelabels"),
    ]
    assert len(found) == len({region["id"] for region in found}) == 8


def test_nothing_found() -> None:
    (prediction,) = nothing_found().to_label_studio("a.jpg", brush="b", polygon="p", rectangle="r")["predictions"]
    assert prediction == {"model_version": "tiny+tiny", "result": []}


def test_an_empty_mask_is_in_the_rectangles_only() -> None:
    found = regions(one_mask_empty().to_label_studio("a.jpg", brush="b", polygon="p", rectangle="r"))
    assert {region["type"] for region in found if region["score"] == 0.83} == {"rectanglelabels"}


@pytest.mark.parametrize("kind", ["brush", "polygon"])
def test_boxes_have_no_masks(kind: str) -> None:
    with pytest.raises(ValueError, match="no masks"):
        boxes_only().to_label_studio("a.jpg", **{kind: "label"})
