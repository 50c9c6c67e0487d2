"""The accuracy of what is served, on a committed drawn set: no change may move it unseen.

Figures are renewed, with a reason, by `text2mask eval --annotations tests/data/drawn/instances.json --images
tests/data/drawn --mode served`; docs/evaluation.md says what faults of which size move them how far.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pipeline import masks
from pipeline.annotations import read_truth
from pipeline.stages import RLE
from tests.data.draw import PLACE, drawn

pytest.importorskip("faster_coco_eval")

COMMITTED = {"box": 77.30, "mask": 90.26}  # AP as served
TOLERANCE = 0.5
FEW = 5


@pytest.fixture(scope="module")
def truth() -> Any:
    return json.loads((PLACE / "instances.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_service_is_as_right_as_it_was(service: str, in_process: Any, truth: Any, tmp_path: Path) -> None:
    from deployments.cli import app

    words = ["--annotations", PLACE / "instances.json", "--images", PLACE, "--mode", "served", "--server", service]
    words += ["--json", tmp_path / "figures.json", "--export", tmp_path / "found"]
    done = CliRunner().invoke(app, ["eval", *map(str, words), "--concurrency", "4", "--timeout", "300"])
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    measured = {kind: 100 * figures[kind]["AP"] for kind in COMMITTED}
    drift = {kind: measured[kind] - committed for kind, committed in COMMITTED.items()}
    assert max(map(abs, drift.values())) <= TOLERANCE, f"AP moved by {drift}: {measured}"

    boxes, shapes = (json.loads((tmp_path / f"found.{kind}.json").read_text()) for kind in ("bbox", "segm"))
    assert moved(truth, boxes, 0.0) == pytest.approx(figures["box"]["AP"], abs=1e-9)
    assert figures["box"]["AP"] - moved(truth, boxes, 0.5) > TOLERANCE / 100  # half a pixel would have been seen
    as_in_this_process(in_process, truth, boxes, shapes)


def moved(truth: Any, boxes: list[Any], pixels: float) -> float:
    """The AP by pycocotools of boxes that lie so many pixels farther right and down."""
    from tests.pipeline.test_evaluation import judged_rows

    shifted = [{**one, "bbox": [one["bbox"][0] + pixels, one["bbox"][1] + pixels, *one["bbox"][2:]]} for one in boxes]
    return float(judged_rows(truth, shifted, "bbox").stats[0])


def as_in_this_process(in_process: Any, truth: Any, boxes: list[Any], shapes: list[Any]) -> None:
    """Other batches and threads, and JSON between: numbers are within tolerances, all else is equal."""
    names = [one["name"] for one in truth["categories"]]
    for image in truth["images"][:FEW]:
        mine = in_process.predict(PLACE / image["file_name"], names)
        at = [number for number, one in enumerate(boxes) if one["image_id"] == image["id"]]
        assert [boxes[i]["category_id"] for i in at] == [truth["categories"][i]["id"] for i in mine.class_ids]
        np.testing.assert_allclose([boxes[i]["score"] for i in at], mine.scores, atol=1e-3)
        corners = np.array([boxes[i]["bbox"] for i in at]).reshape(-1, 4)
        np.testing.assert_allclose(corners[:, :2], mine.boxes[:, :2], atol=0.05)
        np.testing.assert_allclose(corners[:, :2] + corners[:, 2:], mine.boxes[:, 2:], atol=0.05)
        for i, mask in zip(at, mine.iter_masks(), strict=True):
            other = masks.decode(RLE(mine.image_size, shapes[i]["segmentation"]["counts"]))
            assert np.count_nonzero(other != mask) <= max(2, 0.001 * mask.sum())


def test_the_set_is_what_its_script_draws(truth: Any) -> None:
    """Within what another processor or another encoder of WebP may change: the last bit of a sine, a pixel's level."""
    by_image: dict[int, list[Any]] = {}
    for one in truth["annotations"]:
        by_image.setdefault(one["image_id"], []).append(one)
    assert [by_image.get(one["id"], []) == [] for one in truth["images"]] == [n % 8 == 0 for n in range(1, 49)]
    for committed, (image, pixels, marked) in zip(truth["images"], islice(drawn(), FEW), strict=False):
        assert image == committed
        with Image.open(PLACE / image["file_name"]) as file:
            assert (
                np.abs(np.asarray(file.convert("RGB"), np.int16) - pixels).mean() < 10
            )  # of noise; 40 between two scenes
        own = by_image.get(image["id"], [])
        assert [one["category_id"] for one in marked] == [one["category_id"] for one in own]
        for one, other in zip(marked, own, strict=True):
            np.testing.assert_allclose(one["bbox"], other["bbox"], atol=1)
            assert one["area"] == pytest.approx(other["area"], rel=0.01, abs=2)
    assert read_truth((PLACE / "instances.json").read_bytes()).unmasked == 0
