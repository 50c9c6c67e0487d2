"""`text2mask eval`: what it measures, what it says of images without an answer, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest

from tests.data.draw import PLACE as DRAWN
from tests.deployments.cli.conftest import Run
from tests.deployments.jobs.s3 import Bucket, bucket, s3_endpoint, s3_environment  # noqa: F401  # fixtures

pytest.importorskip("faster_coco_eval")

SOME = 4  # images of the drawn set: enough to measure anything
AS_SERVED = {"nms": "class", "nms_threshold": 0.7, "raw": False, "max_detections": 100, "multimask": False}
WHOLE = DRAWN / "instances.json"


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A folder with the first images and their annotations, in which tests break things."""
    data = json.loads(WHOLE.read_text())
    data["images"] = data["images"][:SOME]
    ids = {one["id"] for one in data["images"]}
    data["annotations"] = [one for one in data["annotations"] if one["image_id"] in ids]
    there = {one["category_id"] for one in data["annotations"]}
    data["categories"] = [one for one in data["categories"] if one["id"] in there]
    (tmp_path / "images").mkdir()
    for image in data["images"]:
        copyfile(DRAWN / image["file_name"], tmp_path / image["file_name"])
    (tmp_path / "truth.json").write_text(json.dumps(data))
    return tmp_path


def edited(folder: Path, change: Callable[[Any], object]) -> None:
    data = json.loads((folder / "truth.json").read_text())
    change(data)
    (folder / "truth.json").write_text(json.dumps(data))


def evaluated(run: Run, folder: Path, *words: object, code: int = 0) -> Any:
    """The figures that a command writes."""
    target = folder / "figures.json"
    asked = ("eval", "--annotations", folder / "truth.json", "--images", folder, "--json", target, "--overwrite")
    result = run(*asked, *words, code=code)
    return {**json.loads(target.read_text()), "said": result.stderr, "shown": result.stdout}


def test_what_users_get_is_measured(run: Run, few: Path, model: Any) -> None:
    told = evaluated(run, few, "--mode", "served", "--export", few / "found")
    boxes, masks = (json.loads((few / f"found.{kind}.json").read_text()) for kind in ("bbox", "segm"))
    data = json.loads((few / "truth.json").read_text())
    names = [one["name"] for one in data["categories"]]
    expected = []
    for image in data["images"]:
        result = model.predict(few / image["file_name"], names, **AS_SERVED)
        for index, class_id in enumerate(result.class_ids):
            x0, y0, x1, y1 = result.boxes[index].tolist()
            counts = result.rles[index].counts
            expected.append((image["id"], data["categories"][class_id]["id"], [x0, y0, x1 - x0, y1 - y0], counts))
    assert [(one["image_id"], one["category_id"]) for one in boxes] == [one[:2] for one in expected]
    assert [one["bbox"] for one in boxes] == [pytest.approx(one[2], abs=1e-4) for one in expected]
    assert [one["segmentation"]["counts"] for one in masks] == [one[3] for one in expected]
    assert {*boxes[0]} == {"image_id", "category_id", "score", "bbox"}  # pycocotools would mix areas up
    assert told["box"]["AP"] > 0.5
    assert told["mask"]["AP"] > 0.5
    assert told["images"] == SOME
    assert sum(one["found"] for one in told["classes"]) == len(expected)
    assert told["shown"].startswith("tiny+tiny, in this process on cpu, float32; 4 images")
    assert "as served: box threshold the model's own" in told["shown"]
    for category in told["classes"]:
        assert category["annotated"] == sum(one["category_id"] == category["id"] for one in data["annotations"]) > 0


def test_raw_mode_is_the_published_protocol(run: Run, few: Path, model: Any) -> None:
    told = evaluated(run, few, "--boxes-only", "--limit", 2, "--export", few / "found")
    boxes = json.loads((few / "found.bbox.json").read_text())
    data = json.loads((few / "truth.json").read_text())
    assert len(boxes) == 2 * 300
    names = [one["name"] for one in data["categories"]]
    result = model.predict(few / data["images"][0]["file_name"], names, raw=True, max_detections=300, masks=False)
    assert [one["score"] for one in boxes[:300]] == pytest.approx(result.scores.tolist(), abs=1e-6)
    assert told["images"] == 2
    assert "mask" not in told
    assert not (few / "found.segm.json").exists()
    assert "the best 300 pairs of a box and a class" in told["protocol"][1]


def test_options_count(run: Run, few: Path) -> None:
    served = ("--mode", "served", "--boxes-only", "--limit", 2)
    plain = evaluated(run, few, *served)
    strict = evaluated(run, few, *served, "--box-threshold", 0.8, "--nms", "off", "--max-detections", 2)
    assert sum(one["found"] for one in strict["classes"]) < sum(one["found"] for one in plain["classes"])
    assert "box threshold 0.8, text threshold the model's own, NMS off, at most 2 instances" in strict["protocol"][1]


def test_an_image_without_an_answer_is_told_and_lowers_the_figures(run: Run, few: Path) -> None:
    served = ("--mode", "served", "--boxes-only")
    whole = evaluated(run, few, *served)
    names = [one["file_name"] for one in json.loads((few / "truth.json").read_text())["images"]]
    (few / names[0]).unlink()
    (few / names[1]).write_bytes(b"RIFF")
    edited(few, lambda data: data["images"][2].update(width=data["images"][2]["width"] + 1))
    edited(few, lambda data: [one.pop("segmentation") for one in data["annotations"]])
    told = evaluated(run, few, *served, code=1)
    assert told["box"]["AP"] < whole["box"]["AP"]
    assert told["failed"] == {"image_not_found": 1, "image_undecodable": 1, "image_size_differs": 1}
    assert "3 images have no answer" in told["shown"]
    assert "which lowers every figure" in " ".join(told["shown"].split())
    for name in names[:3]:
        assert f"text2mask: {name}: " in told["said"]


def test_annotations_and_images_may_lie_in_a_bucket(run: Run, few: Path, bucket: Bucket) -> None:  # noqa: F811
    here = evaluated(run, few, "--mode", "served", "--boxes-only")
    for path in (path for path in few.rglob("*") if path.is_file()):
        bucket.put(f"a set/{path.relative_to(few)}", path.read_bytes())
    place = f"{bucket.uri}/a set"
    words = ["--mode", "served", "--boxes-only", "--endpoint-url", bucket.endpoint]
    there = evaluated(run, few, *words, "--annotations", f"{place}/truth.json", "--images", place)
    assert {name: there[name] for name in ("box", "classes")} == {name: here[name] for name in ("box", "classes")}


def test_without_any_answer_there_is_nothing_to_measure(run: Run, few: Path) -> None:
    for image in (few / "images").iterdir():
        image.unlink()
    result = run("eval", "--annotations", few / "truth.json", "--images", few, code=1)
    assert result.stdout == ""
    assert "no image has an answer" in result.stderr


def test_annotations_without_masks_are_judged_by_boxes(run: Run, few: Path) -> None:
    edited(few, lambda data: data["annotations"][0].update(segmentation=[]))
    told = evaluated(run, few, "--mode", "served")
    assert "mask" not in told
    assert "boxes alone: 1 annotations have no segmentation" in told["protocol"][-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--annotations", "none.json", "--images", "."], "--annotations none.json: there is no such file"),
        (["--annotations", "truth.json", "--images", "none"], "--images none: there is no such folder"),
        (["--annotations", "truth.json", "--images", "ftp://x/y"], "give a path, file://, s3://"),
        (["--annotations", "bad.json", "--images", "."], "bad.json: annotations[0]: there is no category 2"),
        (["--annotations", "images", "--images", "."], "--annotations images: "),
        (["--annotations", "truth.json", "--images", ".", "--style", "lvis"], "neg_category_ids"),
        (["--annotations", "truth.json", "--images", ".", "--box-threshold", "0.4"], "--box-threshold is of"),
        (["--annotations", "truth.json", "--images", ".", "--key", "k"], "--key is for --server"),
        (["--annotations", "truth.json", "--images", ".", "--server", "x", "--precision", "float16"], "--precision"),
        (["--annotations", "truth.json", "--images", ".", "--json", "truth.json"], "truth.json: there already"),
        (["--annotations", "truth.json", "--images", ".", "--export", "none/found"], "there is no folder none"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(
    few: Path, complaint: Callable[..., str], monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.chdir(few)
    monkeypatch.delattr("deployments.cli.work.load")
    data = json.loads((few / "truth.json").read_text())
    data["annotations"][0]["category_id"] = 2
    (few / "bad.json").write_text(json.dumps(data))
    assert said in complaint("eval", *words)
