"""Jobs on a real Ray with the embedded model: what they answer, what they refuse, what they do not do twice."""

from __future__ import annotations

import json
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deployments.jobs import JobError, dataset, live_parts, passes, read_results, run_batch
from deployments.jobs.inputs import InputError
from deployments.jobs.output import OutputError
from deployments.jobs.rows import Row
from deployments.jobs.storage import StorageOptions
from pipeline.errors import StageError
from pipeline.result import Result
from tests.deployments.jobs.conftest import PROMPT, drawn
from tests.deployments.jobs.light import no_models  # noqa: F401  # a fixture
from tests.deployments.jobs.s3 import Bucket, Fault, Front
from tests.deployments.test_serve import ask, assert_same

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("service")]


def rows(output: Path) -> dict[str, Row]:
    """By file name; each must be there once."""
    found = [*read_results(output)]
    named = {row.path.rpartition("/")[2]: row for row in found}
    assert len(named) == len(found)
    return named


@pytest.fixture(scope="module")
def labelled(photos: Path, service: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The output of all photos, and what the job said of itself."""
    output = tmp_path_factory.mktemp("jobs") / "labels"
    return output, run_batch(str(photos), PROMPT, str(output))


def test_every_image_has_the_service_s_answer(
    labelled: tuple[Path, Any], photos: Path, client: httpx.Client, in_process: Any
) -> None:
    output, progress = labelled
    found = rows(output)
    assert set(found) == {one.name for one in photos.iterdir()}
    assert progress.done == progress.total == 18
    assert progress.errors == {}
    for name, row in found.items():
        assert row.result is not None
        assert_same(row.result, in_process.predict(photos / name, PROMPT))
    served = {name: ask(client, (photos / name).read_bytes(), PROMPT) for name in ("00.jpg", "01.jpg", "empty a.png")}
    for name, answer in served.items():
        assert_same(found[name].result, answer)  # type: ignore[arg-type]
    assert progress.instances == sum(len(row.result) for row in found.values() if row.result) > 12


def test_an_image_in_which_nothing_is_found_is_not_encoded(labelled: tuple[Path, Any]) -> None:
    output, progress = labelled
    with_boxes = [row for row in rows(output).values() if row.result]
    assert 0 < len(with_boxes) < 18
    assert progress.stages["detector"].items == 18
    assert progress.stages["image_encoder"].items == len(with_boxes)
    assert all(row.timings_ms["encode"] == 0 for row in rows(output).values() if not row.result)


def test_the_same_call_again_has_nothing_to_do(labelled: tuple[Path, Any], photos: Path) -> None:
    output, _ = labelled
    before = live_parts(output)
    told: list[Any] = []
    progress = run_batch(str(photos), PROMPT, str(output), on_progress=told.append)
    assert (progress.earlier, progress.done) == (18, 0)
    assert told[-1].eta_s is None
    assert progress.failed == 0
    assert live_parts(output) == before


def test_another_question_is_refused(labelled: tuple[Path, Any], photos: Path) -> None:
    output, _ = labelled
    for prompt, fields in (("star", {}), (PROMPT, {"box_threshold": 0.4}), (PROMPT, {"multimask": True})):
        with pytest.raises(OutputError, match="prompt|box_threshold|multimask"):
            run_batch(str(photos), prompt, str(output), **fields)
    assert len(rows(output)) == 18


def test_the_default_thresholds_by_number_are_the_same_question(labelled: tuple[Path, Any], photos: Path) -> None:
    output, _ = labelled
    assert run_batch(str(photos), PROMPT, str(output), box_threshold=0.3).done == 0


def test_bad_files_are_rows_and_good_ones_are_not_lost(photos: Path, tmp_path: Path, in_process: Any) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    good = (photos / "00.jpg").read_bytes()
    (folder / "good.jpg").write_bytes(good)
    (folder / "cut.jpg").write_bytes(good[: len(good) // 2])
    (folder / "text.png").write_text("no picture")
    (folder / "nothing.webp").write_bytes(b"")
    Image.new("1", (30_000, 2_000)).save(folder / "pixels.png")
    (folder / "bytes.jpg").write_bytes(good + bytes(32 * 2**20))
    manifest = tmp_path / "list.jsonl"
    names = ["good.jpg", "cut.jpg", "text.png", "nothing.webp", "pixels.png", "bytes.jpg", "gone.jpg"]
    manifest.write_text("".join(json.dumps({"path": f"photos/{name}"}) + "\n" for name in names))
    output = tmp_path / "labels"
    progress = run_batch(str(manifest), PROMPT, str(output), masks=False)
    found = rows(output)
    assert {name: row.error.code for name, row in found.items() if row.error} == {
        "cut.jpg": "image_undecodable",
        "text.png": "image_format_not_allowed",
        "nothing.webp": "image_undecodable",
        "pixels.png": "image_too_large",
        "bytes.jpg": "image_too_large",
        "gone.jpg": "image_not_found",
    }
    assert sum(progress.errors.values()) == 6
    reference = in_process.predict(good, PROMPT, masks=False)
    assert_same_boxes(found["good.jpg"].result, reference)
    assert "image_encoder" not in progress.stages

    (folder / "cut.jpg").write_bytes(good)
    drawn(30).save(folder / "new.jpg")
    same = run_batch(str(manifest), PROMPT, str(output), masks=False, nms="class", max_area=1.0)  # as by default
    assert (same.done, same.errors, same.failed) == (0, {}, 6)  # an error is an answer
    with manifest.open("a") as file:
        file.write('{"path": "photos/new.jpg"}\n')
    again = run_batch(str(manifest), PROMPT, str(output), masks=False, retry_errors=True)
    assert (again.earlier, again.done, sum(again.errors.values()), again.failed) == (1, 7, 5, 5)
    mended = rows(output)
    assert len(mended) == 8
    assert mended["new.jpg"].error is None
    assert_same_boxes(mended["cut.jpg"].result, reference)


def assert_same_boxes(found: Result | None, reference: Result) -> None:
    assert found is not None
    assert found.rles is None
    assert found.labels == reference.labels
    assert np.allclose(found.boxes, reference.boxes, atol=0.1)


def test_each_image_its_own_words_its_own_bytes_and_its_own_tiles(
    photos: Path, tmp_path: Path, in_process: Any
) -> None:
    large = BytesIO()
    drawn(3, 700, 900).save(large, "PNG")
    images = [(photos / "00.jpg").read_bytes(), (photos / "01.jpg").read_bytes(), large.getvalue(), large.getvalue()]
    prompts = ["star", "blue square", PROMPT, " . "]
    pq.write_table(pa.table({"bytes": images, "prompt": prompts}), tmp_path / "images.parquet")
    tile = {"size": 400, "overlap": 160}  # the photos fit into one
    run_batch(str(tmp_path / "images.parquet"), None, str(tmp_path / "labels"), tile=tile)
    found = {row.prompt: row for row in read_results(tmp_path / "labels")}
    assert len(found) == 4
    for image, prompt in zip(images[:3], prompts[:3], strict=True):
        result = found[prompt].result
        assert result is not None
        assert_same(result, in_process.predict(image, prompt, tile=tile))
    error = found[" . "].error
    assert error is not None
    assert error.code == "invalid_value"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"source": "/nowhere/at/all"}, InputError),
        ({"prompt": " , "}, StageError),
        ({"prompt": None}, InputError),
        ({"box_threshold": 2.0}, StageError),
        ({"tile": {"size": 10, "overlap": 20}}, StageError),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(
    change: dict[str, Any], error: type[Exception], photos: Path, tmp_path: Path
) -> None:
    arguments = {"source": str(photos), "prompt": PROMPT, "out": str(tmp_path / "labels"), **change}
    with pytest.raises(error):
        run_batch(**arguments)
    assert not (tmp_path / "labels").exists()


@pytest.mark.usefixtures("no_models")
def test_an_image_that_kills_its_worker_takes_no_other_along(tmp_path: Path) -> None:
    for name in ("a.jpg", "deadly.jpg", "z.jpg"):
        (tmp_path / name).write_bytes(b"an image")
    progress = run_batch(str(tmp_path / "*.jpg"), PROMPT, str(tmp_path / "labels"))
    found = rows(tmp_path / "labels")
    assert len(found) == 3
    assert [name for name, row in found.items() if row.error and row.error.code == "worker_lost"] == ["deadly.jpg"]
    assert progress.errors == {"nothing": 2, "worker_lost": 1}


@pytest.mark.usefixtures("no_models")
def test_from_bucket_to_bucket_with_one_request_in_twenty_spoilt(
    bucket: Bucket,
) -> None:
    """All by worker processes and the driver, over the wire; no model, as the models are not what is tried."""
    names = [f"photos/{number % 7} é%20/{number:03}.png" for number in range(60)]
    for name in names:
        bucket.put(name, b"an image")
    faults: tuple[Fault, ...] = ("500", "503", "cut")
    with Front(bucket.endpoint, lambda number: None if number % 20 else faults[number // 20 % 3]) as front:
        storage = StorageOptions(endpoint_url=front.endpoint)
        output = f"{bucket.uri}/photos/labels"
        for earlier in (0, 60):  # the second time all of it is there
            progress = run_batch(f"{bucket.uri}/photos", PROMPT, output, storage=storage)
            assert (progress.earlier, progress.done) == (earlier, 60 - earlier)
    found = [(row.path, row.error.code if row.error else None) for row in read_results(output, bucket.options())]
    assert sorted(found) == sorted((f"{bucket.uri}/{name}", "nothing") for name in names)
    assert front.spoilt > 5


def test_workers_that_do_not_start_are_told(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, plan: Any) -> None:
            raise RuntimeError("the weights are not there")

        def __call__(self, block: pa.Table) -> pa.Table:
            return block

    monkeypatch.setattr(dataset, "DetectorWorker", Broken)
    with pytest.raises(JobError, match="the weights are not there"):
        run_batch(str(photos / "00.jpg"), PROMPT, str(tmp_path / "labels"))
    assert_ended()
    manifest = json.loads((tmp_path / "labels" / "_manifest.json").read_text())
    assert manifest["run"] is None
    assert not manifest["complete"]


@pytest.mark.usefixtures("no_models")
def test_workers_that_fail_on_everything_end_the_job(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "DOWN_IN_A_ROW", 3)
    monkeypatch.setattr(passes, "_DOWN", {"nothing": "there is no model"})
    with pytest.raises(JobError, match=r"there is no model: \d+ images in a row"):
        run_batch(str(photos / "0[0-5].jpg"), PROMPT, str(tmp_path / "labels"))
    assert_ended()
    assert len(rows(tmp_path / "labels")) == 6


def assert_ended() -> None:
    """Nothing of the job runs on, which would look for another Ray when this one is gone."""
    assert not [one.name for one in threading.enumerate() if one.name.startswith("StreamingExecutor")]
