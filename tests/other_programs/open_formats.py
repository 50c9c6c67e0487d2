"""Run by the other programs' environment: opens what text2mask wrote with their own code, and compares pixel by pixel.

Usage: open_formats.py PROGRAM FOLDER, with PROGRAM one of the functions below. FOLDER holds `truth.npz` (the drawn
masks) and the written files. Ends with `MISSING` where a library of the system keeps a program from starting.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

MISSING = 77

Array = np.ndarray[Any, Any]


def supervision(folder: Path, truth: Array) -> str:
    """Here `to_supervision` itself runs, since it makes objects of this release."""
    import supervision as sv

    from pipeline.result import Result

    def read(name: str) -> Result:
        return Result.from_json(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))

    result = read("result")
    for detections in (result.to_supervision(), result.to_supervision(compact=True)):
        assert len(detections) == len(truth)
        np.testing.assert_array_equal(np.asarray(detections.mask), truth)
        np.testing.assert_array_equal(detections.xyxy, result.boxes)
        np.testing.assert_array_equal(detections.confidence, result.scores)
        np.testing.assert_array_equal(detections.class_id, result.class_ids)
        assert detections.data["class_name"].tolist() == list(result.labels)
        np.testing.assert_array_equal(detections.area, truth.sum(axis=(1, 2)))
        some = detections[detections.class_id == 2]
        np.testing.assert_array_equal(np.asarray(some.mask), truth[result.class_ids == 2])
        assert set(some["class_name"]) == {result.labels[1]}
        picture = np.zeros((*truth.shape[1:], 3), np.uint8)
        white = sv.MaskAnnotator(color=sv.Color.WHITE, opacity=1).annotate(picture.copy(), detections)
        np.testing.assert_array_equal(white.any(axis=2), truth.any(axis=0))
        sv.LabelAnnotator().annotate(sv.BoxAnnotator().annotate(picture, detections), detections)
    assert isinstance(result.to_supervision(compact=True).mask, sv.CompactMask)

    for compact in (False, True):
        empty = read("nothing_found").to_supervision(compact)
        assert len(empty) == 0
        assert np.asarray(empty.mask).shape == (0, *truth.shape[1:])
        assert len(sv.Detections.merge([empty, result.to_supervision(compact)])) == len(truth)
        blank = read("one_mask_empty").to_supervision(compact)
        assert blank.area.tolist()[1] == 0
    assert read("boxes_only").to_supervision().mask is None

    # Its own readers of the COCO and LabelMe files.
    images = folder / "images"
    loaded = sv.DetectionDataset.from_coco(str(images), str(folder / "coco.json"), force_masks=True)
    _, _, annotations = next(iter(loaded))
    np.testing.assert_array_equal(annotations.mask, truth)
    return f"supervision {sv.__version__}"


def labelme(folder: Path, truth: Array) -> str:
    import labelme
    from labelme.utils import shapes_to_label

    expected = json.loads((folder / "result.json").read_text(encoding="utf-8"))["detections"]
    values = {found["label"]: found["class_id"] + 1 for found in expected}
    for name in ("labelme_polygon", "labelme_mask", "labelme_data"):
        file = labelme.LabelFile(str(folder / f"{name}.json"))  # it also opens the image, and compares the sizes
        assert file.image_data
        for found, mask in zip(expected, truth, strict=True):
            shapes = [shape for shape in file.shapes if shape["other_data"]["score"] == found["score"]]
            classes, instances = shapes_to_label(mask.shape, shapes, values)
            np.testing.assert_array_equal(classes, mask * values[found["label"]])
            np.testing.assert_array_equal(instances, mask)  # one instance, of however many parts
    for name in ("labelme_boxes", "labelme_nothing"):
        file = labelme.LabelFile(str(folder / f"{name}.json"))
        classes, _ = shapes_to_label(truth.shape[1:], file.shapes, values)
        assert classes.any() == (name == "labelme_boxes")
    return f"labelme {labelme.__version__}"


def label_studio(folder: Path, truth: Array) -> str:
    from label_studio_sdk.converter import brush
    from label_studio_sdk.label_interface import LabelInterface

    from pipeline.formats.label_studio import brush_rle
    from pipeline.masks import encode

    height, width = truth.shape[1:]
    config = (folder / "label_studio.xml").read_text(encoding="utf-8")
    for name in ("label_studio", "label_studio_boxes", "label_studio_nothing"):
        task = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        errors = LabelInterface(config).validate_prediction(task["predictions"][0], return_errors=True)
        assert not errors, errors
    task = json.loads((folder / "label_studio.json").read_text(encoding="utf-8"))
    regions = task["predictions"][0]["result"]
    brushes = [region for region in regions if region["type"] == "brushlabels"]
    for region, mask in zip(brushes, truth, strict=True):
        decoded = brush.decode_rle(region["value"]["rle"]).reshape(height, width, 4)
        np.testing.assert_array_equal(decoded, np.repeat(mask[..., None] * 255, 4, axis=2))
        assert region["value"]["rle"] == brush.mask2rle(mask.astype(np.uint8) * 255)  # byte for byte
    y, x = np.mgrid[:300, :400]
    for mask in (y < 200, (y > 120) & (y * 400 + x < 100_000), (x // 9 + y // 7) % 8 == 0):  # runs of every length
        assert brush_rle(encode(mask)).tolist() == brush.mask2rle(mask.astype(np.uint8) * 255)
    layers = brush.decode_from_annotation("brush", [{**region, **region["value"]} for region in brushes])
    np.testing.assert_array_equal(np.stack(list(layers.values())) > 0, truth)
    return f"label-studio-sdk {version('label-studio-sdk')}"


def main() -> None:
    program, folder = sys.argv[1], Path(sys.argv[2])
    truth = np.load(folder / "truth.npz")["masks"]
    try:
        opened_by = {"supervision": supervision, "labelme": labelme, "label_studio": label_studio}[program]
        print("opened by", opened_by(folder, truth))
    except ImportError as error:
        if ".so" not in str(error):
            raise
        print(error)
        sys.exit(MISSING)


if __name__ == "__main__":
    main()
