"""Labels of small pictures: they must not hide what they name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import ImageDraw

from pipeline.masks import encode
from pipeline.overlay import Instance, paint
from pipeline.plates import Plates

Array = np.ndarray[Any, Any]
NAMES = ("star", "red circle", "a person in a red jacket", "x", "blue triangle")
SMALL = [(12, 16), (24, 32), (36, 48), (48, 64), (64, 64), (96, 128), (240, 320), (500, 60), (20, 639)]


def disc(size: tuple[int, int], y: float, x: float, radius: float) -> Array:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.asarray(np.hypot(rows - y, columns - x) <= radius)


def instance(mask: Array, name: str, colour: int = 0, masked: bool = True) -> Instance:
    y, x = np.nonzero(mask)
    box = (float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1))
    return Instance(box, colour, name, "0.83", colour, encode(mask) if masked else None)


def scene(size: tuple[int, int], count: int, seed: int) -> tuple[list[Instance], list[Array]]:
    """Discs that may overlap, and what is seen of each: the first is on top."""
    draws = np.random.default_rng(seed)
    instances: list[Instance] = []
    seen: list[Array] = []
    for index in range(count):
        y, x, radius = draws.uniform(0, (size[0] - 1, size[1] - 1, 0.3 * min(size)))
        mask = disc(size, y, x, max(1.0, radius))
        instances.append(instance(mask, NAMES[index % len(NAMES)], index))
        seen.append(mask & ~np.any(seen, axis=0) if seen else mask)
    return instances, seen


class Drawing:
    """A picture with its labels, the pixels they take, and their texts."""

    def __init__(self, size: tuple[int, int], instances: list[Instance]) -> None:
        self.texts: list[str] = []
        real, image = ImageDraw.ImageDraw.text, np.full((*size, 3), 128, np.uint8)

        def text(pen: ImageDraw.ImageDraw, at: Any, words: str, **options: Any) -> None:
            self.texts.append(words)
            real(pen, at, words, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ImageDraw.ImageDraw, "text", text)
            picture = paint(image, instances)
            patch.setattr(Plates, "draw", lambda *_: False)
            self.covered = (picture != paint(image, instances)).any(-1)


@pytest.mark.parametrize("count", [1, 3, 12])
@pytest.mark.parametrize("size", SMALL)
def test_labels_leave_the_picture_to_be_seen(size: tuple[int, int], count: int) -> None:
    for seed in range(8):
        instances, seen = scene(size, count, seed)
        covered = Drawing(size, instances).covered
        assert covered.sum() <= size[0] * size[1] / 5
        for visible in seen:
            assert (covered & visible).sum() <= visible.sum() / 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SMALL)
def test_one_label_takes_a_twelfth_of_the_picture_at_most(size: tuple[int, int], name: str) -> None:
    middle = disc(size, size[0] / 2, size[1] / 2, max(1, min(size) / 5))
    for masked in (True, False):
        covered = Drawing(size, [instance(middle, name, masked=masked)]).covered
        assert covered.sum() <= size[0] * size[1] / 12


@pytest.mark.parametrize("size", [*SMALL, (640, 20), (700, 30)])
def test_no_label_is_cut_to_a_letter_or_two(size: tuple[int, int]) -> None:
    for seed in range(8):
        for text in Drawing(size, scene(size, 5, seed)[0]).texts:
            label = text.removesuffix(" 0.83")
            assert label in NAMES or len(label.rstrip("\u2026")) >= 3


@pytest.mark.parametrize(("size", "shown"), [((64, 64), "star"), ((96, 128), "star 0.83"), ((240, 320), "star 0.83")])
def test_where_there_is_room_the_label_is_there_and_hides_nothing(size: tuple[int, int], shown: str) -> None:
    middle = disc(size, size[0] / 2, size[1] / 2, min(size) / 6)
    drawing = Drawing(size, [instance(middle, "star")])
    assert drawing.texts == [shown]
    assert not (drawing.covered & middle).any()


@pytest.mark.parametrize("size", [(96, 128), (120, 160), (240, 320), (400, 500)])
def test_no_label_lies_on_another_instance_where_a_free_place_is(size: tuple[int, int]) -> None:
    height, width = size
    upper = disc(size, height * 0.33, width * 0.5, height * 0.13)
    lower = disc(size, height * 0.62, width * 0.5, height * 0.13)  # its usual place is on the upper one
    for first, second in ((upper, lower), (lower, upper)):
        drawing = Drawing(size, [instance(first, "star"), instance(second, "x", 1)])
        assert len(drawing.texts) == 2
        assert not (drawing.covered & (upper | lower)).any()


def test_without_masks_boxes_are_spared() -> None:
    size = (240, 320)
    upper, lower = disc(size, 80, 160, 30), disc(size, 145, 160, 30)
    drawing = Drawing(size, [instance(upper, "star", 0, masked=False), instance(lower, "x", 1, masked=False)])
    assert len(drawing.texts) == 2
    assert not drawing.covered[115:176, 130:191].any()


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (900, 1200)])
def test_larger_pictures_have_all_of_their_labels(size: tuple[int, int]) -> None:
    height, width = size
    masks = [disc(size, height * y, width * x, 0.06 * height) for y in (0.2, 0.5, 0.8) for x in (0.15, 0.5, 0.85)]
    drawing = Drawing(size, [instance(mask, "red circle") for mask in masks])
    assert drawing.texts == ["red circle 0.83"] * len(masks)
