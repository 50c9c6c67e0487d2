"""`text2mask predict` in this process: what is asked, what is answered, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.result import Result
from tests.deployments.cli.conftest import DEMO, Run

PROMPT = "star, red circle"
LOW = {"box_threshold": 0.05, "text_threshold": 0.05}
OPTIONS: list[dict[str, Any]] = [  # each changes what is found in the demo picture
    {"box_threshold": 0.8},
    {"text_threshold": 0.8},
    {**LOW, "nms": "off"},
    {**LOW, "nms_threshold": 0.0},
    {**LOW, "negative_prompt": "blue star"},
    {**LOW, "negative_prompt": "blue star", "negative_iou": 1.0},
    {"min_area": 0.05},
    {"max_area": 0.05},
    {"max_detections": 1},
    {"mode": "phrase", "box_threshold": 0.01, "text_threshold": 0.0},
]


pytestmark = pytest.mark.usefixtures("tree")


def timeless(text: str) -> Any:
    answer = json.loads(text)
    assert answer.pop("timings_ms")["total"] > 0
    return answer


def expected(model: Any, image: Path, prompt: Any, form: Any = "rle", **options: Any) -> Any:
    result: Result = model.predict(image, prompt, **options)
    return timeless(json.dumps(result.to_json(form)))


def test_one_picture_is_one_answer(run: Run, model: Any) -> None:
    result = run("predict", "c.png", PROMPT)
    assert timeless(result.stdout) == expected(model, DEMO, PROMPT)
    assert result.stderr == ""


def test_a_picture_on_standard_input(run: Run, model: Any) -> None:
    assert timeless(run("predict", "-", PROMPT, input=DEMO.read_bytes()).stdout) == expected(model, DEMO, PROMPT)


@pytest.mark.parametrize("fields", OPTIONS, ids=str)
def test_every_option_reaches_the_model(run: Run, model: Any, fields: dict[str, Any]) -> None:
    words = [word for name, value in fields.items() for word in (f"--{name.replace('_', '-')}", value)]
    told = timeless(run("predict", "c.png", PROMPT, "--masks", "none", *words).stdout)
    assert told == expected(model, DEMO, PROMPT, masks=False, **fields)
    assert told != expected(model, DEMO, PROMPT, masks=False)


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["--multimask"], {"multimask": True}),
        (["--raw", "--max-detections", 3], {"raw": True, "max_detections": 3}),
        (["--tile", "500:100"], {"tile": {"size": 500, "overlap": 100}}),
        (["--tile", "500"], {"tile": {"size": 500, "overlap": 200}}),
    ],
)
def test_options_that_are_not_fields_word_by_word(
    run: Run, model: Any, words: list[object], fields: dict[str, Any]
) -> None:
    told = timeless(run("predict", "c.png", PROMPT, *words).stdout)
    assert told == expected(model, DEMO, PROMPT, **fields)
    assert told != expected(model, DEMO, PROMPT)


@pytest.mark.parametrize("form", ["rle", "polygon", "png", "none"])
def test_forms_of_masks(run: Run, model: Any, form: str) -> None:
    assert timeless(run("predict", "c.png", PROMPT, "--masks", form).stdout) == expected(model, DEMO, PROMPT, form)


def test_without_masks_the_segmenter_does_not_run(run: Run, in_process: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(in_process.image_encoder), "encode")
    for tile in ([], ["--tile", "400:100"]):
        found = json.loads(run("predict", "c.png", f"{PROMPT}, ring", "--masks", "none", *tile).stdout)["detections"]
        assert found
        assert {one["mask"] for one in found} == {one["area"] for one in found} == {None}


def test_many_pictures_are_lines_in_order_and_a_broken_one_is_among_them(run: Run, model: Any) -> None:
    result = run("predict", "b", "c.png", "**/x.png", PROMPT, code=1)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line.pop("file") for line in lines] == ["b/broken.png", "b/x.png", "c.png", "a/x.png"]
    message = "the image is truncated or corrupt"
    assert lines[0] == {"error": {"code": "image_undecodable", "message": message, "param": "image"}}
    for line in lines[1:]:
        assert timeless(json.dumps(line)) == expected(model, DEMO, PROMPT)
    complaint, summary = result.stderr.splitlines()
    assert complaint == f"text2mask: b/broken.png: {message} (image_undecodable)"
    assert summary.startswith("text2mask: 4 pictures, 9 instances, 1 failed; ")


def test_a_folder_is_lines_even_if_one_picture_is_in_it(run: Run) -> None:
    (line,) = run("predict", "a", PROMPT, "--quiet").stdout.splitlines()
    assert json.loads(line)["file"] == "a/x.png"


def test_nothing_found_is_no_failure(run: Run) -> None:
    assert json.loads(run("predict", "c.png", "star", "--box-threshold", 1).stdout)["detections"] == []


def test_a_broken_picture_alone_is_a_line_of_complaint(complaint: Callable[..., str]) -> None:
    assert "b/broken.png: the image is truncated" in complaint("predict", "b/broken.png", PROMPT, code=1)
    Path("none.png").write_bytes(b"")
    assert "none.png: the image is truncated" in complaint("predict", "none.png", PROMPT, code=1)
    assert "-: the image must be a JPEG" in complaint("predict", "-", PROMPT, input=b"{}" * 9, code=1)


def test_a_list_of_pictures_of_which_one_is_gone(run: Run) -> None:
    Path("list").write_bytes(b"a/x.png\n\ngo\xffne.png\r\nc.png\n")
    for source, given in (("list", None), ("-", Path("list").read_bytes())):
        result = run("predict", "--from-list", source, PROMPT, input=given, code=1)
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert [line["file"] for line in lines] == ["a/x.png", "go\udcffne.png", "c.png"]
        assert lines[1]["error"]["code"] == "image_unreadable"
        assert "go\\udcffne.png: No such file" in result.stderr


def test_classes_from_a_file(run: Run, model: Any) -> None:
    Path("classes.txt").write_text("\ufeffstar, or so\r\n\n@circle\n")
    told = timeless(run("predict", "c.png", "--prompt-file", "classes.txt").stdout)
    assert told == expected(model, DEMO, ["star, or so", "@circle"])
    items = ["ring", {"text": "star", "box_threshold": 0.2}]
    Path("classes.json").write_text(json.dumps(items))
    told = timeless(run("predict", "c.png", "--prompt-file", "classes.json").stdout)
    assert told == expected(model, DEMO, items)


def test_warnings_come_once_and_not_where_quiet_is_wanted(run: Run) -> None:
    told = run("predict", "a", "c.png", "\u4e00\u4e01").stderr.splitlines()
    assert len(told) == 2
    assert "a/x.png: " in told[0]
    assert run("predict", "a", "c.png", "\u4e00\u4e01", "--quiet").stderr == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["c.png"], "c.png is a picture"),
        (["star"], "'star' stands alone"),
        ([], "no picture and no prompt"),
        (["gone.png", "star"], "no file or folder 'gone.png'"),
        (["c.png", " , "], "the prompt: must name at least one class"),
        (["c.png", "star", "--min-area", "0.6", "--max-area", "0.5"], "--min-area: must not exceed"),
        (["c.png", "star", "--tile", "big"], "--tile 'big' must be auto, SIZE or SIZE:OVERLAP"),
        (["c.png", "star", "--tile", "10"], "--tile: must be from 64"),
        (["c.png", "star", "--tile", "auto", "--raw"], "--tile and --raw"),
        (["c.png", "star", "--raw", "--negative-prompt", "dog"], "so a negative would match anything"),
        (["c.png", "--prompt-file", "none.txt"], "none.txt cannot be read: No such file"),
        (["c.png", "--prompt-file", "c.png"], "c.png cannot be read: it is not UTF-8"),
        (["--prompt-file", "list"], "no picture is named"),
        (["--from-list", "none", "star"], "--from-list none cannot be read"),
        (["--from-list", "list", "star"], "names no picture"),
        (["-", "star", "--from-list", "-"], "standard input is either"),
        (["c.png", "star", "--key", "k"], "--key is for --server"),
        (["c.png", "star", "--server", "localhost:8000"], "begins with http://"),
        (["c.png", "star", "--server", "http://x", "--device", "cuda"], "--device is of this process"),
        (["a", "star", "--format", "json"], "many at once are --format jsonl"),
        (["c.png", "star", "--format", "masks"], "say where with --out"),
        (["c.png", "star", "--format", "json", "--format", "coco"], "say where with --out"),
        (["a", "star", "--overlay", "o.png"], "--overlay is for one picture"),
        (["c.png", "star", "--overlay", "none/o.png"], "there is no folder none"),
        (["c.png", "star", "--overlay", "o.nonsense"], "no format has that ending"),
        (["c.png", "star", "--overlay", "c.png", "--overwrite"], "c.png is a picture to be looked at"),
        (["c.png", "star", "--out", "c.png"], "--out c.png is no folder"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_model_is_loaded(
    complaint: Callable[..., str], monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.delattr("deployments.cli.work.load")
    Path("list").write_text("\n")
    assert said in complaint("predict", *words)


def test_what_only_the_model_refuses_stops_at_the_first_picture(complaint: Callable[..., str]) -> None:
    assert "exceeds the model's 48 tokens" in complaint("predict", "a", "c.png", "word " * 60)
