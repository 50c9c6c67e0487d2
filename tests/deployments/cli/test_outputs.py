"""Files that `text2mask predict --out` writes, read by others' programs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pipeline.image import decode
from tests.deployments.cli.conftest import DEMO, Run

PROMPT = "star, red circle, Star"
FORMS = ("json", "jsonl", "coco", "overlay", "masks")
EVERY = [word for form in FORMS for word in ("--format", form)]

pytestmark = pytest.mark.usefixtures("tree")


def files(folder: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def test_a_tree_of_pictures_in_every_form(run: Run, model: Any) -> None:
    result = run("predict", ".", PROMPT, "--recursive", "--out", "out", *EVERY, code=1)
    assert result.stdout == ""
    expected = model.predict(DEMO, PROMPT)
    pngs = [f"{number:03}-{label.replace(' ', '_')}.png" for number, label in enumerate(expected.labels)]
    good = ("a/x.png", "b/x.png", "c.png")
    assert files("out") == sorted(
        ["answers.jsonl", "instances.json", "b/broken.png.json"]
        + [f"{name}{ending}" for name in good for ending in (".json", ".overlay.png")]
        + [f"{name}.masks/{png}" for name in good for png in pngs]
    )
    pixels = decode(DEMO.read_bytes())
    for name in good:
        answer = json.loads(Path(f"out/{name}.json").read_text())
        assert answer["detections"] == expected.to_json()["detections"]
        with Image.open(f"out/{name}.overlay.png") as overlay:
            assert np.array_equal(np.asarray(overlay), expected.overlay(pixels))
        for png, mask in zip(pngs, expected.iter_masks(), strict=True):
            with Image.open(f"out/{name}.masks/{png}") as image:
                assert image.mode == "L"
                assert np.array_equal(np.asarray(image), mask * np.uint8(255))
    broken = json.loads(Path("out/b/broken.png.json").read_text())
    assert broken["error"]["code"] == "image_undecodable"
    lines = [json.loads(line) for line in Path("out/answers.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == ["./a/x.png", "./b/broken.png", "./b/x.png", "./c.png"]
    assert lines[1] == {"file": "./b/broken.png", **broken}


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_the_dataset_is_one_that_pycocotools_reads(run: Run, model: Any) -> None:
    run("predict", "a", "b", "c.png", PROMPT, "--out", "out", "--format", "coco", code=1)
    coco = COCO("out/instances.json")
    assert coco.loadCats(coco.getCatIds()) == [
        {"id": 1, "name": "star", "supercategory": ""},
        {"id": 2, "name": "red circle", "supercategory": ""},
    ]
    assert [one["file_name"] for one in coco.loadImgs(coco.getImgIds())] == ["a/x.png", "b/x.png", "c.png"]
    expected = model.predict(DEMO, PROMPT)
    for image_id in coco.getImgIds():
        found = coco.loadAnns(coco.getAnnIds([image_id]))
        assert [coco.cats[one["category_id"]]["name"] for one in found] == list(expected.labels)
        for annotation, mask in zip(found, expected.iter_masks(), strict=True):
            assert np.array_equal(coco.annToMask(annotation).astype(bool), mask)


def test_a_dataset_on_standard_output(run: Run) -> None:
    told = json.loads(run("predict", "c.png", PROMPT, "--format", "coco").stdout)
    assert len(told["images"]) == 1
    assert len(told["annotations"]) == 3


def test_the_one_overlay(run: Run, model: Any) -> None:
    result = run("predict", "c.png", PROMPT, "--overlay", "seen.png")
    assert len(json.loads(result.stdout)["detections"]) == 3
    with Image.open("seen.png") as overlay:
        assert np.array_equal(np.asarray(overlay), model.predict(DEMO, PROMPT).overlay(decode(DEMO.read_bytes())))


def test_nothing_is_overwritten_unasked_and_that_is_known_before_the_models_are(
    run: Run, complaint: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("predict", "a", "c.png", PROMPT, "--out", "out", *EVERY)
    for there in ("out/a/x.png.json", "out/c.png.masks/m", "out/instances.json", "out/a/x.png.overlay.png"):
        Path(there).parent.mkdir(parents=True, exist_ok=True)
        Path(there).write_text("mine")
        with monkeypatch.context() as patch:
            patch.delattr("deployments.cli.work.load")
            said = complaint(*command)
        assert "there already" in said
        assert "--overwrite" in said
        assert Path(there).read_text() == "mine"
        Path(there).unlink()
        if Path(there).parent.name.endswith(".masks"):
            Path(there).parent.rmdir()
    Path("seen.png").touch()
    assert "seen.png: there already" in complaint("predict", "c.png", PROMPT, "--overlay", "seen.png")


def test_overwriting_leaves_nothing_of_the_old_answer_and_what_is_not_ours(run: Run) -> None:
    command = ("predict", "a", "--out", "out", *EVERY)
    run(*command, PROMPT)
    Path("out/x.png.masks/notes.txt").write_text("mine")
    before = files("out")
    run(*command, "red circle", "--overwrite")
    assert [one for one in files("out") if ".masks/" in one] == [
        "x.png.masks/000-red_circle.png",
        "x.png.masks/notes.txt",
    ]
    assert len(before) == len(files("out")) + 2
    assert [one["name"] for one in COCO("out/instances.json").cats.values()] == ["red circle"]


def test_outputs_in_the_folder_of_the_pictures_are_not_looked_at_again(run: Run) -> None:
    for options in ((), ("--overwrite",)):
        run("predict", "a", "-r", PROMPT, "--out", "a/out", "--format", "overlay", *options)
        assert files("a") == ["out/x.png.overlay.png", "x.png"]


def test_files_stay_in_the_folder(run: Run, complaint: Callable[..., str]) -> None:
    Path("elsewhere").mkdir()
    Path("out").mkdir()
    os.symlink("../elsewhere", "out/a")
    assert "out/a is a link out of out" in complaint("predict", "a", "c.png", PROMPT, "--out", "out")
    os.chdir("a")
    run("predict", "../a/x.png", "../b/x.png", PROMPT, "--out", "here")
    assert files("here") == ["a/x.png.json", "b/x.png.json"]
    assert files("../elsewhere") == []


def test_labels_make_names_of_files_whatever_they_hold(run: Run) -> None:
    label = "../étoile/\x1b " + "star " * 12
    Path("classes.json").write_text(json.dumps([label]))
    words = ("--prompt-file", "classes.json", "--format", "masks", "--box-threshold", "0", "--text-threshold", "0")
    run("predict", "c.png", *words, "--max-detections", "1", "--out", "out")
    assert files("out") == ["c.png.masks/000-___étoile___star_star_star_star_star_sta.png"]


def test_what_cannot_be_written_is_one_line(run: Run) -> None:
    Path("out/c.png.json").mkdir(parents=True)
    result = run("predict", "a", "c.png", PROMPT, "--out", "out", "--overwrite", "--quiet", code=1)
    assert result.stderr == "text2mask: out/c.png.json cannot be written: Is a directory\n"
    assert files("out") == ["a/x.png.json"]  # what was done is kept, and nothing half-written
