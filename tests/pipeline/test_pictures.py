"""`load_image` and `draw_image`, as LangSAM's users call them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import pipeline.image
from pipeline import draw_image, load_image, plates
from pipeline.pictures import as_stored

Array = np.ndarray[Any, Any]
SIZE = (90, 120)


def picture() -> Array:
    return np.full((*SIZE, 3), 128, np.uint8)


def masks() -> Array:
    found = np.zeros((2, *SIZE), np.bool_)
    found[0, 40:80, 10:50] = True
    found[1, 30:80, 60:115] = True
    return found


BOXES = np.array([[10, 40, 50, 80], [60, 30, 115, 80]], np.float32)
LABELS = ["red circle 0.83", "star 0.71"]


def test_draws_masks_boxes_and_labels_into_a_copy() -> None:
    image = picture()
    drawn = draw_image(image, masks(), BOXES, LABELS)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (image == 128).all()
    changed = (drawn != 128).any(-1)
    assert changed[masks().any(0)].all()
    assert changed[20:39, 10:50].any()  # the label
    assert tuple(drawn[60, 30]) != tuple(drawn[60, 90])  # two classes, two colours


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.float32])
def test_arrays_tensors_and_lists_of_any_type_are_equal(kind: Any) -> None:
    expected = draw_image(picture(), masks(), BOXES, LABELS)
    numbers: Array = masks().astype(kind)
    for given, boxes in (
        (numbers, BOXES.tolist()),
        (torch.from_numpy(numbers), torch.from_numpy(BOXES)),
        (list(numbers), BOXES.astype(np.float64)),
        (torch.from_numpy(numbers.astype(np.float32)).requires_grad_(), BOXES),
    ):
        np.testing.assert_array_equal(draw_image(picture(), given, boxes, LABELS), expected)
    np.testing.assert_array_equal(draw_image(Image.fromarray(picture()), numbers, BOXES, LABELS), expected)


def test_the_arguments_of_version_2() -> None:
    expected = draw_image(picture(), masks(), BOXES, LABELS)
    probs = np.array([0.8, 0.7], np.float32)
    np.testing.assert_array_equal(draw_image(picture(), masks(), BOXES, probs, LABELS), expected)
    np.testing.assert_array_equal(draw_image(picture(), masks(), BOXES, labels=LABELS), expected)


@pytest.mark.parametrize(
    ("no_masks", "no_boxes"),
    [
        (torch.zeros((0, *SIZE), dtype=torch.bool), torch.zeros((0, 4))),
        (torch.tensor([]), torch.zeros((0, 4))),
        (np.zeros((0, *SIZE), np.float32), np.zeros((0, 4), np.float32)),
        ([], []),
    ],
)
def test_nothing_found_is_the_image(no_masks: Any, no_boxes: Any) -> None:
    image = picture()
    drawn = draw_image(image, no_masks, no_boxes, [])
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_boxes_without_masks() -> None:
    drawn = draw_image(picture(), [], BOXES, LABELS)
    assert (drawn[60, 20:40] == 128).all()
    assert (drawn[60, 10] != 128).any()


def colour_of(label: str, others: list[str]) -> tuple[int, ...]:
    count = len(others) + 1
    boxes = [[10 * i, 80, 10 * i + 9, 89] for i in range(count)]
    drawn = draw_image(picture(), [], boxes, [*others, label])
    return tuple(drawn[88, boxes[-1][0]].tolist())


def test_a_label_has_its_colour_in_every_picture_whatever_its_score() -> None:
    alone = colour_of("star 0.71", [])
    assert colour_of("star 0.32", ["car 0.90", "dog 0.80"]) == alone
    assert colour_of("star", ["car 0.90", "star 0.12"]) == alone
    assert len({colour_of(f"class {i}", []) for i in range(6)}) > 1  # a number in the name is part of it


def test_labels_of_one_picture_have_colours_of_their_own() -> None:
    names = [f"thing {letter}" for letter in "abcdefghijkl"]
    boxes = [[10 * i, 80, 10 * i + 9, 89] for i in range(12)]
    drawn = draw_image(picture(), [], boxes, names)
    assert len({tuple(drawn[88, 10 * i].tolist()) for i in range(12)}) == 12


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="masks must be 2x90x120"):
        draw_image(picture(), masks()[:, :, :50], BOXES, LABELS)
    with pytest.raises(ValueError, match="masks must be 1x90x120"):
        draw_image(picture(), masks(), BOXES[:1], LABELS[:1])
    with pytest.raises(ValueError, match="2 boxes and 1 labels"):
        draw_image(picture(), masks(), BOXES, LABELS[:1])
    with pytest.raises(ValueError, match="HxWx3 of uint8"):
        draw_image(picture().astype(np.float32), masks(), BOXES, LABELS)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_a_box_without_end_is_refused(number: float, kind: Any) -> None:
    with pytest.raises(ValueError, match="must be finite numbers, and box 1 is"):
        draw_image(picture(), masks(), kind([[10.0, 40.0, 50.0, 80.0], [60.0, number, 115.0, 80.0]]), LABELS)


def test_labels_that_no_font_has_get_the_number_of_their_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plates, "_SYSTEM", ())
    monkeypatch.setattr(plates, "_SYSTEM_CJK", ())
    boxes = [[10, 30, 50, 80], [60, 30, 80, 80], [85, 30, 115, 80], [10, 85, 50, 89]]
    drawn: list[str] = []
    real = ImageDraw.ImageDraw.text

    def text(pen: ImageDraw.ImageDraw, at: Any, words: str, **options: Any) -> None:
        drawn.append(words)
        real(pen, at, words, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    draw_image(np.zeros((90, 120, 3), np.uint8), [], boxes, ["猫 0.90", "犬 0.80", "猫 0.70", "star 0.60"])
    assert drawn[:3] == ["#0", "#1", "#0"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
def test_load_image_gives_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "picture.png"
    Image.new(mode, (30, 20)).save(path)
    loaded = load_image(path)
    assert (loaded.mode, loaded.size) == ("RGB", (30, 20))
    assert load_image(str(path)) == loaded


def test_load_image_is_upright(tmp_path: Path) -> None:
    stored = Image.new("RGB", (30, 20))
    stored.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    stored.save(tmp_path / "picture.png", exif=exif)
    loaded = load_image(tmp_path / "picture.png")
    assert loaded.size == (20, 30)
    assert loaded.getpixel((19, 0)) == (255, 255, 255)
    assert loaded.getexif().get(0x0112, 1) == 1


def test_load_image_fetches_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="reads files"):
        load_image("https://example.com/picture.png")
    with pytest.raises(FileNotFoundError):
        load_image(tmp_path / "missing.png")


@pytest.mark.parametrize("turn", list(Image.Transpose))
def test_what_was_found_is_turned_back_from_how_the_picture_was_made_upright(
    monkeypatch: pytest.MonkeyPatch, turn: Image.Transpose
) -> None:
    monkeypatch.setitem(pipeline.image.UPRIGHT, 2, turn)
    stored = np.zeros((20, 30), np.bool_)
    stored[3:7, 11:29] = True
    image = Image.fromarray(stored.astype(np.uint8))
    image.getexif()[0x0112] = 2
    upright = np.asarray(image.transpose(turn)).astype(np.bool_)
    y, x = np.nonzero(upright)
    box = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float32)
    given = box.copy()
    boxes, found = as_stored(image, box, upright[None])
    np.testing.assert_array_equal(found, stored[None])
    np.testing.assert_array_equal(boxes, [[11, 3, 29, 7]])
    np.testing.assert_array_equal(box, given)


def test_without_an_orientation_both_frames_are_one() -> None:
    for image in (Image.new("RGB", (30, 20)), np.zeros((20, 30, 3), np.uint8), "picture.png"):
        boxes, found = as_stored(image, BOXES, masks())
        np.testing.assert_array_equal(boxes, BOXES)
        np.testing.assert_array_equal(found, masks())
