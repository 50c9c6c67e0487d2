"""What other programs open, made of an output: COCO by pycocotools, PNGs by PIL, lines by json."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from deployments.cli import app
from deployments.fetch_settings import FetchSettings
from deployments.jobs.export import Exported, export_results
from deployments.jobs.export_pictures import Images
from deployments.jobs.inputs import find_work
from deployments.jobs.output import Output, OutputError
from deployments.jobs.results import read_results
from deployments.jobs.rows import RESULTS, Row, error_row, result_row
from deployments.jobs.storage import StorageOptions, place
from pipeline.image import ImageLimits
from pipeline.result import Result
from tests.deployments.jobs.made import SETTINGS
from tests.deployments.jobs.s3 import Bucket
from tests.pipeline.formats.scene import CLASSES, HEIGHT, WIDTH, boxes_only, masks, nothing_found, result

pytestmark = [
    # pycocotools 2.0.11 on numpy 2.4.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
]
NAMES = ["000-red_circle.png", "001-猫__x_____é_.png", "002-猫__x_____é_.png", "003-stern.png"]

Rows = Sequence[tuple[Any, ...]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures and one that is none."""
    folder = tmp_path / "photos"
    for name in ("a/x.png", "a/y.png", "ü %20.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), "white").save(folder / name)
    (folder / "broken.png").write_bytes(b"none")
    return folder


@pytest.fixture
def job(tmp_path: Path) -> Callable[[Rows], Path]:
    """An output of these rows: path and result, or error code; where wanted, a prompt and an id."""

    def write(rows: Rows) -> Path:
        with Output.open(place(tmp_path / "output"), SETTINGS) as output:
            for number, (path, found, *rest) in enumerate(rows):
                prompt = rest[0] if rest else "red circle"
                id = rest[1] if len(rest) > 1 else f"{number:032x}"
                start = (id, str(path), json.dumps(prompt, ensure_ascii=False))
                row = error_row(*start, found, "no", {}) if isinstance(found, str) else result_row(*start, found, {})
                output.add(pa.Table.from_pylist([row], RESULTS))
                output.flush()  # so that rows lie in many parts
        return tmp_path / "output"

    return write


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def opened(target: Path) -> COCO:
    return COCO(str(target / "instances.json"))


def test_all_forms(photos: Path, job: Callable[[Rows], Path], tmp_path: Path) -> None:
    rows = [(photos / "a/x.png", result()), (photos / "ü %20.png", nothing_found()), (photos / "a/y.png", "oh")]
    seen: list[tuple[int, int]] = []
    done = export_results(
        job(rows),
        tmp_path / "out",
        ["coco", "jsonl", "masks", "overlay"],
        on_progress=lambda *now: seen.append(now),
    )
    assert done == Exported(images=2, errors=1, instances=4, masks=4, overlays=2, root=str(photos))
    assert seen[-1] == (3, 3)
    assert files(tmp_path / "out") == sorted(
        ["answers.jsonl", "instances.json", "a/x.png.overlay.png", "ü %20.png.overlay.png"]
        + [f"a/x.png.masks/{name}" for name in NAMES]
    )
    for name, mask in zip(NAMES, masks(), strict=True):
        np.testing.assert_array_equal(pixels(tmp_path / "out/a/x.png.masks" / name), mask * 255)
    drawn = result().overlay(np.full((HEIGHT, WIDTH, 3), 255, np.uint8))
    np.testing.assert_array_equal(pixels(tmp_path / "out/a/x.png.overlay.png"), drawn)


def test_coco_is_that_of_one_command(photos: Path, job: Callable[[Rows], Path], tmp_path: Path) -> None:
    """Numbers of categories are those of the classes, found or not; images without detections are there."""
    export_results(
        job([(photos / "a/x.png", result()), (photos / "b.png", nothing_found())]), tmp_path / "out", ["coco"]
    )
    coco = opened(tmp_path / "out")
    assert coco.loadCats([1, 2, 3]) == result().to_coco(classes=CLASSES)["categories"]
    assert coco.loadImgs([1, 2]) == [
        {"id": 1, "file_name": "a/x.png", "width": WIDTH, "height": HEIGHT},
        {"id": 2, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
    ]
    assert coco.loadAnns(coco.getAnnIds()) == result().to_coco(classes=CLASSES)["annotations"]
    for annotation, mask in zip(coco.loadAnns(coco.getAnnIds(imgIds=1)), masks(), strict=True):
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)


def with_labels(label: str) -> Result:
    return result(labels=(label,) * 4, class_ids=np.zeros(4, np.int32))


def test_an_image_with_two_prompts_is_one_image(job: Callable[[Rows], Path], tmp_path: Path) -> None:
    rows = [
        ("s3://b/k/x.png", with_labels("wheel"), "wheel", "1" * 32),
        ("s3://b/k/y.png", with_labels("wheel"), "wheel", "2" * 32),
        ("s3://b/k/x.png", with_labels("car"), "car", "3" * 32),
        ("s3://b/k/x.png", with_labels("car"), "car", "4" * 32),  # the same once more
    ]
    done = export_results(job(rows), tmp_path / "out", ["coco", "masks"])
    assert (done.images, done.root) == (4, "s3://b/k")
    coco = opened(tmp_path / "out")
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == ["car", "wheel"]
    assert [one["file_name"] for one in coco.loadImgs(coco.getImgIds())] == ["x.png", "y.png"]
    assert [len(coco.getAnnIds(imgIds=[1], catIds=[category])) for category in (1, 2)] == [4, 4]
    assert {name.partition("/")[0] for name in files(tmp_path / "out")} == {
        "instances.json", "y.png.masks", "x.png~11111111.masks", "x.png~33333333.masks", "x.png~44444444.masks",
    }  # fmt: skip


def test_a_dataset_of_nothing(job: Callable[[Rows], Path], tmp_path: Path) -> None:
    export_results(job([]), tmp_path / "empty", ["coco", "jsonl"])
    assert (opened(tmp_path / "empty").getImgIds(), (tmp_path / "empty/answers.jsonl").read_bytes()) == ([], b"")


def test_boxes_alone(job: Callable[[Rows], Path], tmp_path: Path) -> None:
    done = export_results(job([("/p/a.png", boxes_only())]), tmp_path / "out", ["coco", "masks"])
    assert (done.masks, files(tmp_path / "out")) == (0, ["instances.json"])
    assert [one["segmentation"] for one in opened(tmp_path / "out").loadAnns([1, 2, 3, 4])] == [[]] * 4


def test_lines_are_answers(job: Callable[[Rows], Path], tmp_path: Path) -> None:
    rows = [("/p/ü.png", result(), ["red circle"]), ("/p/no.png", "oh"), ("/p/b.png", boxes_only())]
    export_results(job(rows), tmp_path / "out", ["jsonl"])
    first, second = map(json.loads, (tmp_path / "out/answers.jsonl").read_text(encoding="utf-8").splitlines())
    assert (first["file"], first["prompt"], first["id"]) == ("/p/ü.png", '["red circle"]', f"{0:032x}")
    assert (Result.from_json(first), Result.from_json(second)) == (result(), boxes_only())


LONG = "ü" * 400


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["s3://b/../../etc/x", "s3://b/a/x"], ["%2E%2E/%2E%2E/etc/x", "a/x"]),
        (["s3://b//x", "s3://b/./x"], ["%/x", "%2E/x"]),
        (["/p/A.png", "/p/a.png"], ["A.png~11111111", "a.png~22222222"]),
        (["s3://b/..", "s3://b/%2E%2E"], ["%2E%2E~11111111", "%2E%2E~22222222"]),
        (["/p/x.png", "s3://b/x.png"], ["p/x.png", "s3/b/x.png"]),
        ([f"s3://b/{LONG}", "s3://b/x"], [f"{LONG[:90]}~{sha256(LONG.encode()).hexdigest()[:8]}", "x"]),
    ],
    ids=["upwards", "empty parts", "letters' case", "made alike", "two roots", "long"],
)
def test_names_stay_in_the_target_and_apart(
    paths: list[str], names: list[str], job: Callable[[Rows], Path], tmp_path: Path
) -> None:
    rows = [(path, result(), "x", digit * 32) for path, digit in zip(paths, "12", strict=True)]
    export_results(job(rows), tmp_path / "deep/out", ["masks"])
    assert files(tmp_path / "deep") == sorted(f"out/{name}.masks/{mask}" for name in names for mask in NAMES)


def test_overlays_of_images_that_are_gone_or_others(photos: Path, job: Callable[[Rows], Path], tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(photos / "a/y.png")
    rows = [(photos / name, result()) for name in ("a/x.png", "a/y.png", "broken.png", "gone.png")]
    done = export_results(job(rows), tmp_path / "out", ["overlay"])
    assert done.not_drawn == {"image_changed": 1, "image_format_not_allowed": 1, "image_not_found": 1}
    assert (done.overlays, files(tmp_path / "out")) == (1, ["a/x.png.overlay.png"])


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_overlays_of_images_in_a_manifest(kind: str, photos: Path, job: Callable[[Rows], Path], tmp_path: Path) -> None:
    data = [(photos / "a/x.png").read_bytes(), b"none", (photos / "a/y.png").read_bytes()]
    source = tmp_path / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"bytes": data}), source, row_group_size=2)
    else:
        source.write_text("\n".join(json.dumps({"bytes": b64encode(one).decode()}) for one in data))
    paths = find_work(str(source), "x", StorageOptions())["path"].to_pylist()
    done = export_results(job([(path, result()) for path in reversed(paths)]), tmp_path / "out", ["overlay"])
    assert done.not_drawn == {"image_format_not_allowed": 1}
    assert files(tmp_path / "out") == [f"list.{kind}#{number}.overlay.png" for number in (0, 2)]


def test_an_image_is_read_again_by_what_its_row_shows(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"near")
    (tmp_path / "none.jsonl#1").write_bytes(b"a file of that name")
    pq.write_table(pa.table({"bytes": [b"0", b"1", None]}), tmp_path / "list.parquet", row_group_size=1)
    (tmp_path / "odd.jsonl").write_text('\n{"bytes": "MA=="}\n{"bytes": "MQ=="}')
    expected: dict[str, tuple[bytes | None, str]] = {
        "a.jpg": (b"near", ""),
        "list.parquet#1": (b"1", ""),
        "odd.jsonl#0": (b"0", ""),
        "none.jsonl#1": (b"a file of that name", ""),
        "list.parquet#2": (None, "manifest_row_invalid"),
        "list.parquet#3": (None, "image_not_found"),
        "list.parquet#\u0661": (None, "image_not_found"),
        f"list.parquet#{'9' * 5_000}": (None, "image_not_found"),
        "none.parquet#0": (None, "image_not_found"),
    }
    rows = [Row(name, str(tmp_path / name), "x", None, None, {}) for name in expected]
    rows.append(Row("url", "https://host/a.jpg", "x", None, None, {}))
    images = Images(StorageOptions(), ImageLimits(), FetchSettings())
    found = {row.id: (image, code) for row, image, code in images.of(rows)}
    assert found == {**expected, "url": (None, "url_not_allowed")}


def test_a_target_with_files_is_refused_or_brought_up_to_date(job: Callable[[Rows], Path], tmp_path: Path) -> None:
    output, target = job([("/p/a.png", result(labels=("x",) * 4)), ("/p/b.png", nothing_found())]), tmp_path / "out"
    old = target / "a.png.masks"
    old.mkdir(parents=True)
    for name in ("000-y.png", "004-x.png", "mine.txt"):
        (old / name).touch()
    with pytest.raises(OutputError, match="has files in it"):
        export_results(output, target, ["masks"])
    export_results(output, target, ["masks"], overwrite=True)
    assert files(old) == ["000-x.png", "001-x.png", "002-x.png", "003-x.png", "mine.txt"]


def test_what_cannot_be_meant(job: Callable[[Rows], Path], tmp_path: Path) -> None:
    output = job([])
    with pytest.raises(OutputError, match="in the output itself"):
        export_results(output, output / "coco", ["coco"])
    with pytest.raises(OutputError, match="is a file"):
        export_results(output, output / "_manifest.json", ["coco"])
    with pytest.raises(OutputError, match="no output of a job"):
        export_results(tmp_path / "photos", tmp_path / "out", ["coco"])
    for forms in ([], ["cocoa"]):
        with pytest.raises(ValueError, match="forms must be some of coco, jsonl, masks, overlay"):
            export_results(output, tmp_path / "out", forms)  # type: ignore[arg-type]


def test_over_the_wire(bucket: Bucket, tmp_path: Path) -> None:
    """Images, output and target in a bucket."""
    file = BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(file, "PNG")
    for key in ("photos/a b/x%20.png", "photos/ü.png"):
        bucket.put(key, file.getvalue())
    options, output = bucket.options(), f"{bucket.uri}/labels"
    work = find_work(f"{bucket.uri}/photos", "x", options).to_pylist()
    with Output.open(place(output, options), SETTINGS) as writer:
        for row in work:
            row = result_row(row["id"], row["path"], row["prompt"], result(), {})
            writer.add(pa.Table.from_pylist([row], RESULTS))
    assert [row.result for row in read_results(output, options)] == [result()] * 2
    done = export_results(output, f"{bucket.uri}/made", ["coco", "masks", "overlay"], options=options)
    assert (done.root, done.masks, done.overlays, done.not_drawn) == (f"{bucket.uri}/photos", 8, 2, {})
    listed = bucket.client().list_objects_v2(Bucket=bucket.name, Prefix="made/")["Contents"]
    names = ["a b/x%20.png", "ü.png"]
    assert {one["Key"] for one in listed} == {
        "made/instances.json",
        *(f"made/{name}.overlay.png" for name in names),
        *(f"made/{name}.masks/{mask}" for name in names for mask in NAMES),
    }
    bucket.client().download_file(bucket.name, "made/instances.json", str(tmp_path / "instances.json"))
    coco = opened(tmp_path)
    assert [one["file_name"] for one in coco.loadImgs([1, 2])] == names
    for annotation, mask in zip(coco.loadAnns(coco.getAnnIds(imgIds=2)), masks(), strict=True):
        np.testing.assert_array_equal(coco.annToMask(annotation), mask)


def test_the_command(photos: Path, job: Callable[[Rows], Path], tmp_path: Path) -> None:
    output = job([(photos / "a/x.png", result()), (photos / "a/y.png", "oh"), (photos / "gone.png", result())])
    made = CliRunner().invoke(app, ["export", str(output), str(tmp_path / "out"), "--format", "coco"])
    assert (made.exit_code, made.stdout) == (0, "")
    assert "2 images, 8 instances in" in made.stderr
    assert "1 rows with an error are left out" in made.stderr
    assert files(tmp_path / "out") == ["instances.json"]
    again = CliRunner().invoke(app, ["export", str(output), str(tmp_path / "out"), "--format", "coco"])
    assert (again.exit_code, "has files in it" in again.stderr) == (1, True)
    drawn = CliRunner().invoke(app, ["export", str(output), str(tmp_path / "drawn"), "--format", "overlay"])
    assert (drawn.exit_code, files(tmp_path / "drawn")) == (1, ["a/x.png.overlay.png"])
    assert "1 overlays are missing, their images cannot be read: image_not_found 1" in drawn.stderr
