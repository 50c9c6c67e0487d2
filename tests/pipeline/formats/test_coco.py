"""COCO, opened, read and evaluated by pycocotools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.formats.coco import coco_dataset, coco_results
from pipeline.result import Result
from tests.pipeline.formats.scene import (
    CLASSES,
    HEIGHT,
    WIDTH,
    boxes_only,
    masks,
    nothing_found,
    one_mask_empty,
    result,
)

pytestmark = [
    # pycocotools 2.0.11 on numpy 2.4.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
]


def opened(dataset: dict[str, Any], folder: Path) -> COCO:
    path = folder / "dataset.json"
    path.write_text(json.dumps(dataset), encoding="utf-8")
    return COCO(str(path))


def average_precision(truth: COCO, found: list[dict[str, Any]], kind: str) -> float:
    evaluation = COCOeval(truth, truth.loadRes(found), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def test_one_image(tmp_path: Path) -> None:
    coco = opened(result().to_coco("katze 猫.jpg", image_id=7, classes=CLASSES), tmp_path)
    assert coco.loadImgs(7) == [{"id": 7, "file_name": "katze 猫.jpg", "width": WIDTH, "height": HEIGHT}]
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=7))
    assert [one["id"] for one in annotations] == [1, 2, 3, 4]
    assert [one["category_id"] for one in annotations] == [1, 3, 3, 2]
    assert [one["iscrowd"] for one in annotations] == [0] * 4
    assert [one["score"] for one in annotations] == [0.9, 0.83, 0.4, 0.3]
    assert annotations[0]["bbox"] == [1.5, 2.25, 49.5, 32.25]
    for annotation, mask in zip(annotations, masks(), strict=True):
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
        assert isinstance(annotation["segmentation"]["counts"], str)


def test_without_classes_the_categories_are_those_found() -> None:
    some = result().to_coco()
    assert [(one["id"], one["name"]) for one in some["categories"]] == list(enumerate(CLASSES, 1))
    only = result(labels=("b",) * 4, class_ids=np.array([5, 5, 5, 5], np.int32)).to_coco()
    assert [(one["id"], one["name"]) for one in only["categories"]] == [(6, "b")]
    assert {one["category_id"] for one in only["annotations"]} == {6}


def test_many_images_of_different_prompts(tmp_path: Path) -> None:
    other = result(labels=("stern",) * 4, class_ids=np.zeros(4, np.int32))  # there it was the first class
    items = [("a.jpg", result()), ("b.jpg", nothing_found()), ("c.jpg", other)]
    dataset = coco_dataset(iter(items), CLASSES)
    assert list(dataset) == ["info", "licenses", "images", "annotations", "categories"]
    coco = opened(dataset, tmp_path)
    assert [coco.imgs[number]["file_name"] for number in coco.getImgIds()] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [len(coco.getAnnIds(imgIds=number)) for number in (1, 2, 3)] == [4, 0, 4]
    assert coco.getAnnIds(catIds=coco.getCatIds(["stern"])) == [4, 5, 6, 7, 8]


def test_detections_are_evaluated(tmp_path: Path) -> None:
    items = [("a.jpg", result()), ("b.jpg", nothing_found())]
    coco = opened(coco_dataset(items, CLASSES), tmp_path)
    for kind in ("segm", "bbox"):
        found = json.loads(json.dumps(coco_results([(1, result()), (2, nothing_found())], CLASSES, kind)))
        assert average_precision(coco, found, kind) == pytest.approx(1)
    loaded = coco.loadRes(coco_results([(1, result())], CLASSES))
    for annotation, mask in zip(loaded.loadAnns(loaded.getAnnIds()), masks(), strict=True):
        np.testing.assert_array_equal(loaded.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
    moved = result(rles=tuple(reversed(result().rles or ())))
    assert average_precision(coco, coco_results([(1, moved)], CLASSES), "segm") < 0.5  # it can fail


def test_nothing_found(tmp_path: Path) -> None:
    coco = opened(nothing_found().to_coco("a.jpg"), tmp_path)
    assert (coco.getImgIds(), coco.getAnnIds(), coco.getCatIds()) == ([1], [], [])
    assert coco_results([(1, nothing_found())], CLASSES) == []
    assert coco_dataset([], CLASSES)["images"] == []


def test_boxes_only(tmp_path: Path) -> None:
    coco = opened(boxes_only().to_coco("a.jpg"), tmp_path)
    first = coco.loadAnns(1)[0]
    assert (first["segmentation"], first["area"]) == ([], 49.5 * 32.25)
    found = coco_results([(1, boxes_only())], CLASSES, "bbox")
    assert average_precision(coco, found, "bbox") == pytest.approx(1)
    with pytest.raises(ValueError, match="no masks"):
        coco_results([(1, boxes_only())], CLASSES)


def test_an_empty_mask(tmp_path: Path) -> None:
    coco = opened(one_mask_empty().to_coco("a.jpg"), tmp_path)
    assert not coco.annToMask(coco.loadAnns(2)[0]).any()
    assert coco.loadAnns(2)[0]["area"] == 0


@pytest.mark.parametrize("of", [result(), boxes_only()])
def test_a_label_that_is_no_class_is_refused(of: Result) -> None:
    for call in (lambda: of.to_coco(classes=["stern"]), lambda: coco_results([(1, of)], ["stern"], "bbox")):
        with pytest.raises(ValueError, match="red circle"):
            call()


def test_there_is_no_other_kind() -> None:
    with pytest.raises(ValueError, match="keypoints"):
        coco_results([], CLASSES, "keypoints")  # type: ignore[arg-type]
