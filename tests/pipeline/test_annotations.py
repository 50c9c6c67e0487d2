"""Files of annotations: what is read of them, and what is said of those that are none."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from pipeline.annotations import AnnotationError, Style, read_truth

WHOLE: dict[str, Any] = {
    "info": {"year": 2026},
    "images": [
        {"id": 9, "file_name": "b.png", "width": 4, "height": 3, "license": 1},
        {"id": "7", "coco_url": "http://images.example/val2017/000.jpg", "width": 4, "height": 3},
    ],
    "categories": [{"id": 5, "name": "stop_sign"}, {"id": 2, "name": " cat (pet)"}],
    "annotations": [
        {"id": 0, "image_id": 9, "category_id": 5, "bbox": [0, 1, 2, 2.5], "area": 4,
         "segmentation": [[0, 1, 2, 1, 2, 3]]},
        {"id": 3, "image_id": 7, "category_id": 2, "bbox": [0, 0, 4, 3], "area": 12.5, "iscrowd": 1, "score": 0.5,
         "segmentation": {"size": [3, 4], "counts": [0, 12]}},
        {"id": 4, "image_id": 7, "category_id": 2, "bbox": [0, 0, 1, 1], "area": 1, "segmentation": []},
    ],
}  # fmt: skip


def changed(*path: Any, value: Any = None) -> bytes:
    """The file with one value replaced, or left out where it is None."""
    data = deepcopy(WHOLE)
    at: Any = data
    for step in path[:-1]:
        at = at[step]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return json.dumps(data).encode()


def test_what_is_read() -> None:
    truth = read_truth(json.dumps(WHOLE).encode())
    assert [(one["id"], one["file_name"]) for one in truth.images] == [(9, "b.png"), (7, "val2017/000.jpg")]
    assert truth.prompt("coco") == ["cat (pet)", "stop sign"]  # by id
    assert truth.prompt("lvis") == ["cat", "stop sign"]
    assert [one["id"] for one in truth.annotations] == [1, 2, 3]  # 0 would be taken for "none"
    assert [one["iscrowd"] for one in truth.annotations] == [0, 1, 0]
    assert truth.unmasked == 1
    first = truth.first(1)
    assert [one["image_id"] for one in first.annotations] == [9]
    assert (len(first.images), len(first.categories), first.unmasked) == (1, 2, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no object"),
        (changed("images"), "no list of images"),
        (changed("images", value=[]), "no images"),
        (changed("annotations", value={}), "no list of annotations"),
        (changed("annotations", 1, value=5), r"annotations\[1\] is no object"),
        (changed("images", 1, "id", value=9), "two of its images"),
        (changed("images", 0, "width", value=0), r"images\[0\]: width and height"),
        (changed("images", 0, "height"), "no whole number height"),
        (changed("images", 0, "file_name"), r"images\[0\] has no file_name"),
        (changed("images", 0, "file_name", value="a/../../b.png"), "leads out"),
        (changed("images", 0, "file_name", value="/etc/passwd"), "leads out"),
        (changed("categories", 1, "name", value=" "), r"categories\[1\] has no name"),
        (changed("categories", 1, "id", value=True), "no whole number id"),
        (changed("annotations", 0, "image_id", value=8), "there is no image 8"),
        (changed("annotations", 0, "category_id", value=3), "there is no category 3"),
        (changed("annotations", 0, "bbox", value=[0, 0, -1, 1]), r"annotations\[0\].bbox must be"),
        (changed("annotations", 0, "bbox", 0, value=float("nan")), "bbox must be"),
        (changed("annotations", 0, "bbox", 2, value=10**400), r"annotations\[0\].bbox must be"),
        (changed("annotations", 0, "bbox", 0, value=-17), "bbox must be x, y, width and height in pixels, 16 at most"),
        (changed("annotations", 0, "area", value=10**400), r"annotations\[0\] has no area"),
        (changed("images", 0, "id", value=2**70), r"images\[0\].id must be from 0 to 9223372036854775807"),
        (changed("images", 0, "id", value="9" * 5_000), r"images\[0\] has no whole number id"),
        (changed("images", 1, "id", value=-1), r"images\[1\].id must be from 0"),
        (changed("images", 0, "width", value=2**70), r"images\[0\]: width and height .* at most 1000000"),
        (changed("categories", 1, "id", value=2**63), r"categories\[1\].id must be from 0"),
        (changed("annotations", 0, "image_id", value=-1), r"annotations\[0\].image_id must be from 0"),
        (changed("annotations", 0, "segmentation", 0, 2, value=1e9), r"annotations\[0\].segmentation: .* 16 pixels"),
        (changed("annotations", 0, "segmentation", 0, 2, value=float("nan")), "a polygon must be"),
        (changed("annotations", 0, "area"), "has no area"),
        (changed("annotations", 0, "iscrowd", value=2), "iscrowd must be"),
        (changed("annotations", 0, "segmentation", value=[[0, 1, 2, 1]]), "three points"),
        (changed("annotations", 1, "segmentation", "size", value=[4, 3]), r"size \[3, 4\]"),
        (changed("annotations", 1, "segmentation", "counts", value=[0, 11]), "do not fill"),
        (changed("annotations", 1, "segmentation", "counts", value=[-1, 13]), "list of lengths"),
        (changed("annotations", 1, "segmentation", "counts", value="zz~"), "malformed"),
        (changed("annotations", 1, "segmentation", value="mask"), "must be polygons"),
    ],
)
def test_what_is_wrong_is_said(text: bytes, said: str) -> None:
    with pytest.raises(AnnotationError, match=said) as raised:
        read_truth(text)
    assert "\n" not in str(raised.value)


def test_what_reaches_beyond_its_image_is_taken() -> None:
    data = json.loads(changed("annotations", 0, "segmentation", 0, 2, value=16))
    data["images"][0]["id"] = data["annotations"][0]["image_id"] = 2**63 - 1
    data["annotations"][0] |= {"bbox": [-16, 0, 16, 16], "area": 256}
    [first, *_] = read_truth(json.dumps(data).encode()).annotations
    assert (first["image_id"], first["bbox"], first["segmentation"][0][2]) == (2**63 - 1, [-16, 0, 16, 16], 16)


@pytest.mark.parametrize("style", ["lvis", "lvis-fixed"])
def test_lvis_needs_what_coco_has_not(style: Style) -> None:
    with pytest.raises(AnnotationError, match="no list neg_category_ids"):
        read_truth(json.dumps(WHOLE).encode(), style)
    data = deepcopy(WHOLE)
    for image in data["images"]:
        image |= {"neg_category_ids": [5], "not_exhaustive_category_ids": []}
    with pytest.raises(AnnotationError, match="no frequency"):
        read_truth(json.dumps(data).encode(), style)
