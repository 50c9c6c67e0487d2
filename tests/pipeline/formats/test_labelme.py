"""LabelMe's JSON. Polygons are drawn by PIL the way LabelMe's `shape_to_mask` calls it, outline and all; LabelMe's own
code opens these files in tests/other_programs.
"""

from __future__ import annotations

import json
from base64 import b64decode
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw

from pipeline.masks import decode, encode
from pipeline.polygon_fill import fill
from tests.pipeline.formats.scene import HEIGHT, WIDTH, boxes_only, masks, nothing_found, one_mask_empty, result

Array = np.ndarray[Any, Any]

FIELDS = {"label", "points", "group_id", "description", "shape_type", "flags"}


def drawn(shapes: list[dict[str, Any]], size: tuple[int, int]) -> Array:
    image = Image.new("1", size[::-1])
    for shape in shapes:
        assert shape["shape_type"] == "polygon"
        ImageDraw.Draw(image).polygon([tuple(point) for point in shape["points"]], outline=1, fill=1)
    return np.asarray(image)


def pasted(shape: dict[str, Any], size: tuple[int, int]) -> Array:
    mask = np.zeros(size, np.bool_)
    (x0, y0), (x1, y1) = shape["points"]
    mask[y0 : y1 + 1, x0 : x1 + 1] = np.asarray(Image.open(BytesIO(b64decode(shape["mask"]))))
    return mask


def test_the_file() -> None:
    written = json.loads(json.dumps(result().to_labelme("bilder/猫.png", b"bytes")))
    assert list(written) == ["version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"]
    assert written["imagePath"] == "bilder/猫.png"
    assert b64decode(written["imageData"]) == b"bytes"
    assert (written["imageHeight"], written["imageWidth"]) == (HEIGHT, WIDTH)
    assert result().to_labelme("a.png")["imageData"] is None


def test_polygons_are_the_masks() -> None:
    shapes = result().to_labelme("a.png")["shapes"]
    assert all(set(shape) == FIELDS | {"score"} for shape in shapes)
    for index, (mask, label) in enumerate(zip(masks(), result().labels, strict=True)):
        mine = [shape for shape in shapes if shape["score"] == round(float(result().scores[index]), 2)]
        assert {shape["label"] for shape in mine} == {label}
        assert {shape["group_id"] for shape in mine} == ({index} if len(mine) > 1 else {None})
        np.testing.assert_array_equal(drawn(mine, mask.shape), mask)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_any_mask_is_drawn_back_to_the_pixel(mask: Array) -> None:
    one = result(
        image_size=mask.shape,
        labels=("a",),
        class_ids=np.zeros(1, np.int32),
        scores=np.ones(1, np.float32),
        boxes=np.ones((1, 4), np.float32),
        rles=(encode(mask),),
    )
    shapes = one.to_labelme("a.png")["shapes"]
    np.testing.assert_array_equal(drawn(shapes, mask.shape), mask)
    assert fill([[shape["points"]] for shape in shapes], mask.shape) == encode(mask)  # by the centres of pixels too
    for shape in one.to_labelme("a.png", form="mask")["shapes"]:
        np.testing.assert_array_equal(pasted(shape, mask.shape), mask)


def test_a_known_polygon() -> None:
    mask = np.zeros((6, 9), np.bool_)
    mask[1:4, 2:7] = True
    mask[2, 4] = False
    one = result(image_size=(6, 9), labels=("a",), rles=(encode(mask),))
    (shape,) = one.to_labelme("a.png")["shapes"]
    outline = [[2, 1], [6.99, 1], [6.99, 3.99], [2, 3.99]]
    hole = [[5, 1.99], [3.99, 1.99], [3.99, 3], [5, 3], [5, 1.99]]
    assert shape["points"] == [outline[0], [5, 1], *hole, [5, 1], *outline[1:]]


def test_bitmaps_are_the_masks() -> None:
    shapes = result().to_labelme("a.png", form="mask")["shapes"]
    assert [shape["label"] for shape in shapes] == list(result().labels)
    for shape, mask in zip(shapes, masks(), strict=True):
        assert set(shape) == FIELDS | {"score", "mask"}
        assert shape["shape_type"] == "mask"
        np.testing.assert_array_equal(pasted(shape, mask.shape), mask)
        y, x = np.nonzero(mask)
        assert shape["points"] == [[x.min(), y.min()], [x.max(), y.max()]]


def test_a_tolerance_leaves_fewer_points() -> None:
    y, x = np.mgrid[:200, :300]
    disk = (np.hypot(y - 100, x - 150) < 90) & (np.hypot(y - 100, x - 120) > 30)
    one = result(image_size=(200, 300), labels=("a",), rles=(encode(disk),))
    (exact,), (coarse,) = (one.to_labelme("a.png", tolerance=value)["shapes"] for value in (0, 1.5))
    assert len(coarse["points"]) < len(exact["points"]) / 5
    again = decode(fill([[coarse["points"]]], (200, 300)))
    assert (again & disk).sum() / (again | disk).sum() > 0.97
    # No point of the one is further from the other than the tolerance.
    ring = np.array([*coarse["points"], coarse["points"][0]])
    for point in np.array(exact["points"]):
        start, along = ring[:-1], np.diff(ring, axis=0)
        share = ((point - start) * along).sum(1) / np.maximum((along**2).sum(1), 1e-12)
        nearest = start + np.clip(share, 0, 1)[:, None] * along
        assert np.hypot(*(point - nearest).T).min() <= 1.5 + 1e-9
    # Whatever the tolerance, a shape stays a polygon.
    assert all(len(shape["points"]) >= 3 for shape in result().to_labelme("a.png", tolerance=99)["shapes"])


def test_nothing_found() -> None:
    assert nothing_found().to_labelme("a.png")["shapes"] == []


def test_boxes_only_are_rectangles() -> None:
    shapes = boxes_only().to_labelme("a.png")["shapes"]
    assert [shape["shape_type"] for shape in shapes] == ["rectangle"] * 4
    assert shapes[0]["points"] == [[1.5, 2.25], [51, 34.5]]


def test_an_empty_mask_is_left_out() -> None:
    for form in ("polygon", "mask"):
        shapes = one_mask_empty().to_labelme("a.png", form=form)["shapes"]
        assert {shape["score"] for shape in shapes} == {0.9, 0.4, 0.3}


@pytest.mark.parametrize("options", [{"form": "circle"}, {"tolerance": -1}, {"tolerance": float("nan")}])
def test_other_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="form|tolerance"):
        result().to_labelme("a.png", **options)
