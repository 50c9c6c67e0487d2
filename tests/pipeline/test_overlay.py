from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont

from pipeline import plates
from pipeline.masks import encode
from pipeline.overlay import draw
from pipeline.palette import class_colour
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


# ---- what is drawn


def test_a_mask_is_tinted_and_outlined_and_the_rest_is_left_alone() -> None:
    size = (300, 400)
    mask = disc(size, 150, 200, 80)
    image = grey(size)
    picture = draw(image, result_of(size, [(120, 70, 280.9, 230.9)], masks=[mask]))
    red = class_colour(0)
    assert tuple(picture[70, 200]) == red  # the topmost pixel of the disc
    assert tuple(picture[72, 200]) not in (red, tuple(picture[150, 200]))  # a hairline: a red disc shows on red, too
    np.testing.assert_allclose(picture[150, 200], 128 * 0.5 + np.array(red) * 0.5, atol=1)
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


@pytest.mark.parametrize("size", [(64, 64), (120, 160), (600, 800), (3000, 4000), (1000, 8000)])
def test_a_label_is_large_enough_to_read(size: tuple[int, int]) -> None:
    height, width = size
    box = (width * 0.3, height * 0.5, width * 0.5, height * 0.8)
    picture = draw(grey(size), result_of(size, [box], label="star"))
    plate = plate_above(picture, int(box[1]))
    assert max(10, (height * width) ** 0.5 / 50) <= len(plate) <= max(24, height / 4)  # a page shows it at 800 px or so
    assert np.abs(plate.astype(int) - np.array(class_colour(0))).sum(-1).max() > 200  # letters on it


def plate_above(picture: Array, box_top: int) -> Array:
    """What is drawn above a box: its label."""
    label = (picture[:box_top] != 128).any(-1)
    rows, columns = np.flatnonzero(label.any(1)), np.flatnonzero(label.any(0))
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def test_labels_of_boxes_on_top_of_each_other_do_not_cover_each_other() -> None:
    size = (400, 600)
    one = draw(grey(size), result_of(size, [(200, 150, 400, 300)]))
    plate = (one[:150] != 128).any(-1).sum()
    both = draw(grey(size), result_of(size, [(200, 150, 400, 300)] * 2, class_ids=[0, 4]))
    second = (both == class_colour(4)).all(-1).sum()
    assert second > plate / 2
    np.testing.assert_array_equal(both[:150], one[:150])  # the first label is where it was


def test_a_label_that_no_place_is_left_for_is_not_drawn_over_another() -> None:
    size, box = (60, 200), (0, 0, 200, 60)
    few, many = (
        draw(grey(size), replace(result_of(size, [box] * count), scores=np.full(count, 0.5, np.float32)))
        for count in (12, 60)
    )
    np.testing.assert_array_equal(few, many)


def test_small_letters_where_labels_crowd_the_picture() -> None:
    assert plates.font_size((480, 640), ["star 0.83"] * 3) == plates.font_size((480, 640), ["star 0.83"])
    assert 10 <= plates.font_size((1200, 1600), ["star 0.83"] * 200) < plates.font_size((1200, 1600), ["star 0.83"])


def test_touching_instances_of_a_class_differ_inside_and_not_in_their_lines() -> None:
    size, side = (240, 320), 40
    corners = [(y, x) for y in range(0, 240, side) for x in range(0, 320, side)]
    masks = []
    for y, x in corners:
        masks.append(np.zeros(size, np.bool_))
        masks[-1][y : y + side, x : x + side] = True
    boxes = [(float(x), float(y), float(x + side), float(y + side)) for y, x in corners]
    picture = draw(grey(size), result_of(size, boxes, masks=masks)).astype(int)
    inside = picture[side - 8 :: side, side // 2 :: side]
    assert (np.abs(np.diff(inside, axis=0)).sum(-1) > 40).all()
    assert (np.abs(np.diff(inside, axis=1)).sum(-1) > 40).all()
    rims = picture[side - 1 :: side, side // 2 :: side]
    assert (rims == class_colour(0)).all()


# ---- letters


@pytest.mark.parametrize("label", ["", "two\nlines\tand tabs", "猫 🚗 café", "x" * 5000, "   ", "\x00\u202e\ud800"])
def test_any_label_is_drawn(label: str) -> None:
    size = (100, 150)
    picture = draw(grey(size), result_of(size, [(20, 50, 90, 90)], label=label))
    assert (picture[:50] != 128).any()


def drawn(label: str, class_id: int = 7) -> Array:
    size = (200, 400)
    return draw(grey(size), result_of(size, [(20, 80, 390, 190)], label=label, class_ids=[class_id]))


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plates, "_SYSTEM", ())
    monkeypatch.setattr(plates, "_SYSTEM_CJK", ())


@pytest.mark.usefixtures("no_system_fonts")
def test_letters_that_no_font_has_become_the_number_of_the_class() -> None:
    for label in ("猫", "black 猫", "🚗", "قطة", "круг"):
        np.testing.assert_array_equal(drawn(label), drawn("#7"))
    assert (drawn("cat") != drawn("#7")).any()


@pytest.mark.usefixtures("no_system_fonts")
def test_accents_go_before_the_word_does() -> None:
    np.testing.assert_array_equal(drawn("café crème"), drawn("cafe creme"))


def test_a_font_of_ones_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    try:
        font = ImageFont.truetype("DejaVuSans.ttf", 20)
    except OSError:
        pytest.skip("no DejaVu Sans on this machine")
    copy = tmp_path / "mine.ttf"
    copy.write_bytes(Path(str(font.path)).read_bytes())
    monkeypatch.setattr(plates, "_SYSTEM", ())
    monkeypatch.setattr(plates, "_SYSTEM_CJK", ())
    without = drawn("круг")
    monkeypatch.setenv(plates.FONT_VARIABLE, str(copy))
    assert (drawn("круг") != without).any()
    np.testing.assert_array_equal(drawn("cat"), drawn("cat"))


def test_a_long_label_loses_its_score_then_its_end() -> None:
    size = (640, 64)

    def width(label: str) -> int:
        return int(plate_above(draw(grey(size), result_of(size, [(2, 20, 60, 60)], label=label)), 20).shape[1])

    letters = {label: ImageFont.load_default(10).getlength(label) for label in ("star 0.90", "red circle")}
    assert width("star") == pytest.approx(letters["star 0.90"], abs=6)
    assert width("red circle") == pytest.approx(letters["red circle"], abs=6)
    assert 50 <= width("a person in a red jacket") <= 64


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


# ---- what is taken, and what is refused


def test_a_pil_image_is_taken_upright_and_of_any_mode() -> None:
    result = result_of((20, 30), [(3, 4, 12, 15)])
    expected = draw(grey((20, 30)), result)
    for mode in ("RGB", "L", "RGBA"):
        image = Image.fromarray(grey((20, 30))).convert(mode)
        np.testing.assert_array_equal(result.overlay(image), expected)
    turned = Image.fromarray(grey((30, 20)))
    turned.getexif()[0x0112] = 6  # a quarter clockwise makes it upright
    np.testing.assert_array_equal(draw(turned, result), expected)


def test_another_image_is_refused() -> None:
    result = result_of((20, 30), [])
    images: list[Any] = [grey((30, 20)), grey((20, 30))[..., 0], grey((20, 30)).astype(np.float32)]
    images += [Image.new("RGB", (20, 30)), "photo.jpg", Path("photo.jpg"), b"", None, grey((20, 30)).tolist()]
    for image in images:
        with pytest.raises(ValueError, match="20x30x3 of uint8, or a PIL image"):
            result.overlay(image)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_box_without_end_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match=r"must be finite numbers, and box 1 is"):
        draw(grey((20, 30)), result_of((20, 30), [(1, 1, 9, 9), (1, 1, number, 9)]))
