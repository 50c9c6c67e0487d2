from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from pipeline.masks import encode
from pipeline.overlay import class_colour, draw
from pipeline.result import Result

Array = np.ndarray[Any, Any]


def result_of(
    size: tuple[int, int],
    boxes: list[tuple[float, float, float, float]],
    *,
    masks: list[Array] | None = None,
    class_ids: list[int] | None = None,
    label: str = "red circle",
) -> Result:
    count = len(boxes)
    return Result(
        image_size=size,
        labels=(label,) * count,
        class_ids=np.array(class_ids or [0] * count, np.int32),
        scores=np.linspace(0.9, 0.5, count).astype(np.float32),
        text_scores=np.full(count, 0.5, np.float32),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        rles=None if masks is None else tuple(encode(mask) for mask in masks),
        mask_scores=None if masks is None else np.ones(count, np.float32),
        areas=None if masks is None else np.array([mask.sum() for mask in masks], np.int32),
        model="tiny+tiny",
    )


def disc(size: tuple[int, int], y: float, x: float, radius: float) -> Array:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.asarray(np.hypot(rows - y, columns - x) <= radius)


def grey(size: tuple[int, int]) -> Array:
    return np.full((*size, 3), 128, np.uint8)


# ---- colours


def test_colours_are_stable() -> None:
    assert class_colour(0) == (255, 13, 13)
    assert class_colour(5) == class_colour(5)


def test_colours_of_dozens_of_classes_stay_apart() -> None:
    colours = [np.array(class_colour(class_id), float) for class_id in range(36)]
    assert min(np.linalg.norm(a - b) for a, b in combinations(colours[:12], 2)) > 50
    assert min(np.linalg.norm(a - b) for a, b in combinations(colours, 2)) > 25


# ---- what is drawn


def test_a_mask_is_tinted_and_outlined_and_the_rest_is_left_alone() -> None:
    size = (300, 400)
    mask = disc(size, 150, 200, 80)
    image = grey(size)
    picture = draw(image, result_of(size, [(120, 70, 280.9, 230.9)], masks=[mask]))
    red = class_colour(0)
    assert tuple(picture[70, 200]) == red  # the topmost pixel of the disc
    np.testing.assert_allclose(picture[150, 200], 128 * 0.55 + np.array(red) * 0.45, atol=1)
    changed = (picture != 128).any(-1)
    assert changed[mask].all()
    outside = np.ones(size, np.bool_)
    outside[40:232, 119:283] = False  # the box, its line, and the label above it
    assert not changed[outside].any()
    assert (image == 128).all()  # the caller's own pixels


def test_the_box_is_drawn() -> None:
    size = (300, 400)
    picture = draw(grey(size), result_of(size, [(120.2, 70.4, 281.0, 231.0)]))
    red = class_colour(0)
    for y, x in ((70, 250), (230, 200), (150, 120), (150, 280)):
        assert tuple(picture[y, x]) == red
    assert (picture[72:229, 122:279] == 128).all()  # no mask, no tint


def test_the_best_is_on_top() -> None:
    size = (200, 200)
    masks = [disc(size, 100, 90, 40), disc(size, 100, 110, 40)]
    picture = draw(grey(size), result_of(size, [(50, 60, 131, 141), (70, 60, 151, 141)], masks=masks, class_ids=[0, 4]))
    alone = draw(grey(size), result_of(size, [(50, 60, 131, 141)], masks=masks[:1]))
    # The rim of the first lies inside the second.
    assert tuple(picture[100, 130]) == tuple(alone[100, 130]) == class_colour(0)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (40, 60), (240, 320), (1200, 900), (2000, 3000)])
def test_labels_are_within_the_picture_at_any_size(size: tuple[int, int]) -> None:
    height, width = size
    corners = [(0, 0, width / 3, height / 3), (width * 2 / 3, height * 2 / 3, width, height), (0, 0, width, height)]
    picture = draw(grey(size), result_of(size, corners, label="a rather long label of some object"))
    assert picture.shape == (*size, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("size", [(120, 160), (600, 800), (3000, 4000)])
def test_a_label_is_large_enough_to_read(size: tuple[int, int]) -> None:
    height, width = size
    box = (width * 0.3, height * 0.5, width * 0.5, height * 0.8)
    picture = draw(grey(size), result_of(size, [box]))
    label = (picture[: int(height * 0.5) - 1] != 128).any(-1)
    rows, columns = np.flatnonzero(label.any(1)), np.flatnonzero(label.any(0))
    tall = int(np.ptp(rows)) + 1
    assert max(10, height / 60) <= tall <= max(24, height / 20)
    plate = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].reshape(-1, 3)
    contrast = np.abs(plate.astype(int) - np.array(class_colour(0))).sum(1).max()
    assert contrast > 200  # letters on it


def test_labels_of_boxes_on_top_of_each_other_do_not_cover_each_other() -> None:
    size = (400, 600)
    one = draw(grey(size), result_of(size, [(200, 150, 400, 300)]))
    plate = (one[:150] != 128).any(-1).sum()
    both = draw(grey(size), result_of(size, [(200, 150, 400, 300)] * 2, class_ids=[0, 4]))
    second = (both == class_colour(4)).all(-1).sum()
    assert second > plate / 2
    np.testing.assert_array_equal(both[:150], one[:150])  # the first label is where it was


@pytest.mark.parametrize("label", ["", "two\nlines\tand tabs", "猫 🚗 café", "x" * 5000, "   "])
def test_any_label_is_drawn(label: str) -> None:
    size = (100, 150)
    picture = draw(grey(size), result_of(size, [(20, 50, 90, 90)], label=label))
    assert (picture[:50] != 128).any()


def test_boxes_that_stick_out_and_empty_masks() -> None:
    size = (50, 60)
    boxes: list[tuple[float, float, float, float]] = [(-5, -5, 70, 70), (59.9, 49.9, 60, 50), (10, 10, 10, 10)]
    picture = draw(grey(size), result_of(size, boxes, masks=[np.zeros(size, np.bool_)] * 3))
    assert picture.shape == (50, 60, 3)


def test_nothing_found_is_the_image() -> None:
    image = grey((20, 30))
    picture = draw(image, result_of((20, 30), [], masks=[]))
    np.testing.assert_array_equal(picture, image)
    assert not np.shares_memory(picture, image)


def test_another_image_is_refused() -> None:
    result = result_of((20, 30), [])
    images: list[Any] = [grey((30, 20)), grey((20, 30))[..., 0], grey((20, 30)).astype(np.float32)]
    for image in images:
        with pytest.raises(ValueError, match="20x30x3 of uint8"):
            draw(image, result)
