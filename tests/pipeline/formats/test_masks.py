"""The forms of a mask in JSON, opened by PIL, pycocotools and json."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco

from pipeline.errors import StageError
from pipeline.formats.masks import MaskForm, mask_json, png, read_mask
from pipeline.masks import encode

FORMS: tuple[MaskForm, ...] = ("rle", "polygon", "png")

Array = np.ndarray[Any, Any]


def with_a_hole() -> Array:
    mask = np.zeros((6, 9), np.bool_)
    mask[1:5, 2:7] = True
    mask[2:4, 3:5] = False
    mask[0, 8] = True
    return mask


def opened(data: str) -> Image.Image:
    return Image.open(BytesIO(b64decode(data)))


def test_rle_is_that_of_coco() -> None:
    written = mask_json(encode(with_a_hole()))
    assert written == mask_json(encode(with_a_hole()), "rle")
    assert list(written) == ["format", "size", "counts"]
    assert written["size"] == [6, 9]
    expected = coco.encode(np.asfortranarray(with_a_hole().astype(np.uint8)))
    assert written["counts"].encode("ascii") == expected["counts"]


def test_polygon_has_every_part_with_its_holes() -> None:
    assert mask_json(encode(with_a_hole()), "polygon") == {
        "format": "polygon",
        "size": [6, 9],
        "polygons": [
            [[[8, 0], [9, 0], [9, 1], [8, 1]]],
            [[[2, 1], [7, 1], [7, 5], [2, 5]], [[5, 2], [3, 2], [3, 4], [5, 4]]],
        ],
    }


def test_png_is_a_grey_picture_of_0_and_255() -> None:
    written = mask_json(encode(with_a_hole()), "png")
    assert list(written) == ["format", "size", "data"]
    assert (written["format"], written["size"]) == ("png", [6, 9])
    image = opened(written["data"])
    assert (image.format, image.mode, image.size) == ("PNG", "L", (9, 6))
    np.testing.assert_array_equal(np.asarray(image), with_a_hole() * 255)


@settings(derandomize=True, deadline=None)
@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))), st.sampled_from(FORMS))
def test_every_form_is_read_back_to_the_pixel(mask: Array, form: MaskForm) -> None:
    rle = encode(mask)
    assert read_mask(json.loads(json.dumps(mask_json(rle, form)))) == rle


def test_other_pngs_of_the_same_mask_are_read() -> None:
    for mode in ("1", "L", "RGB", "P"):
        file = BytesIO()
        Image.fromarray(with_a_hole()).convert(mode).save(file, "PNG")
        data = b64encode(file.getvalue()).decode()
        assert read_mask({"format": "png", "size": [6, 9], "data": data}) == encode(with_a_hole())


def _png(size: tuple[int, int]) -> bytes:
    return png(encode(np.ones(size)))


@pytest.mark.parametrize(
    "mask",
    [
        {"format": "svg", "size": [6, 9], "data": ""},
        {"format": "rle", "size": [6], "counts": "0"},
        {"format": "rle", "size": [float("inf"), 9], "counts": "0"},
        {"format": "polygon", "size": [6, 9], "polygons": [[[[0, 0], [10, 0], [3, 3]]]]},
        {"format": "polygon", "size": [2**63, 9], "polygons": []},
        {"format": "polygon", "size": [6, 9], "polygons": [[[[0, 0], [10**400, 0], [3, 3]]]]},
        {"format": "png", "size": [6, 9], "data": "not base64"},
        {"format": "png", "size": [6, 9], "data": b64encode(b"not a png").decode()},
        {"format": "png", "size": [6, 9], "data": b64encode(_png((9, 6))).decode()},
        {"format": "png", "size": [60, 90], "data": b64encode(_png((60, 90))[:-30]).decode()},
    ],
)
def test_what_is_none_of_the_forms_is_refused(mask: dict[str, Any]) -> None:
    with pytest.raises((ValueError, StageError)):
        read_mask(mask)


def test_uncompressed_run_lengths_are_none_of_the_forms() -> None:
    with pytest.raises(TypeError, match="must be text"):
        read_mask({"format": "rle", "size": [6, 9], "counts": [54]})


def test_there_is_no_other_form() -> None:
    with pytest.raises(ValueError, match="'svg'"):
        mask_json(encode(with_a_hole()), "svg")  # type: ignore[arg-type]
