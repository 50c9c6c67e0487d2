"""Rows are written once, whoever asks, and nobody else's are touched."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from deployments.jobs import output as writing
from deployments.jobs import redoing
from deployments.jobs.output import Output, OutputError
from deployments.jobs.redoing import Redoing
from deployments.jobs.storage import place
from tests.deployments.jobs.made import SETTINGS, bad, good, goods, listed, manifest, table

HOUR = 3600.0
ROOT = Path(__file__).parents[3]


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def write(folder: Path, *batches: Any, complete: bool = True, **how: Any) -> None:
    with Output.open(place(folder), SETTINGS, **how) as output:
        for batch in batches:
            output.add(batch)
            output.flush()
        output.close(complete=complete)


def ids(folder: Path) -> list[str]:
    return sorted(row["id"] for row in listed(folder))


def on_disk(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def known(folder: Path) -> set[str]:
    said = manifest(folder)
    return {"_manifest.json", *(one["name"] for one in [*said["parts"], *said["retired"]])}


def test_what_the_manifest_says(tmp_path: Path) -> None:
    clock = Clock()
    write(tmp_path, table(good("a"), bad("b")), goods("cd"), clock=clock)
    said = manifest(tmp_path)
    assert (said["format"], said["model"], said["settings"]) == (1, "tiny+tiny", SETTINGS)
    assert (said["images"], said["errors"], said["complete"], said["run"]) == (4, 1, True, None)
    assert said["updated"] == clock.now
    assert [(part["rows"], part["errors"]) for part in said["parts"]] == [(1, 0), (1, 1), (2, 0)]
    assert all((tmp_path / part["name"]).stat().st_size == part["bytes"] for part in said["parts"])
    assert ids(tmp_path) == ["a", "b", "c", "d"]
    assert on_disk(tmp_path) == known(tmp_path)


def test_rows_that_are_there_are_dropped(tmp_path: Path) -> None:
    write(tmp_path, goods("ab"), goods("bc"), goods("c"), complete=False)
    with Output.open(place(tmp_path), SETTINGS) as output:
        assert output.done == {"a", "b", "c"}
        output.add(goods("cdd"))
        output.add(goods("ad"))
    assert ids(tmp_path) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("limit", "value"), [("MOST_ROWS", 3), ("MOST_BYTES", 3 * goods("a").nbytes), ("MOST_S", 10.0)]
)
def test_when_rows_are_written(limit: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, limit, value)
    clock = Clock()
    with Output.open(place(tmp_path), SETTINGS, clock=clock) as output:
        written = []
        for name in "abcd":
            output.add(goods(name))
            written.append(manifest(tmp_path)["images"])
            clock.now += 6
    assert written == [0, 0, 3, 3]
    assert ids(tmp_path) == [*"abcd"]


def test_an_error_in_the_job_keeps_what_was_done(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Output.open(place(tmp_path), SETTINGS) as output:
            output.add(goods("ab"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (ids(tmp_path), manifest(tmp_path)["complete"], manifest(tmp_path)["run"]) == (["a", "b"], False, None)


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    made = {**SETTINGS, "detector_sha256": "a" * 64, "tile": None}
    with Output.open(place(tmp_path), made) as output:
        output.add(goods("a"))
    before = on_disk(tmp_path), manifest(tmp_path)
    wanted = {**SETTINGS, "box_threshold": 0.4, "prompt": "x" * 500, "detector_sha256": "b" * 64}
    with pytest.raises(OutputError) as refusal:
        Output.open(place(tmp_path), wanted)
    assert str(refusal.value) == (
        f"this output was made with prompt red circle, not {'x' * 59}…; box_threshold 0.3, not 0.4; "
        "detector_sha256 aaaaaaaaaaaa…, not bbbbbbbbbbbb…; take another --out, or --overwrite to begin anew"
    )
    assert (on_disk(tmp_path), manifest(tmp_path)) == before


def test_an_output_without_a_row_takes_any_settings(tmp_path: Path) -> None:
    write(tmp_path, complete=False)
    other = {**SETTINGS, "model": "swint+vit_b", "prompt": "blue square"}
    with Output.open(place(tmp_path), other) as output:
        output.add(goods("a"))
    assert (manifest(tmp_path)["settings"], manifest(tmp_path)["model"]) == (other, "swint+vit_b")
    with pytest.raises(OutputError, match="made with model swint"):
        Output.open(place(tmp_path), SETTINGS)


def test_overwrite_begins_anew_and_readers_have_an_hour(tmp_path: Path) -> None:
    clock = Clock()
    write(tmp_path, goods("ab"), clock=clock)
    [old] = manifest(tmp_path)["parts"]
    other = {**SETTINGS, "box_threshold": 0.4}
    with Output.open(place(tmp_path), other, overwrite=True, clock=clock) as output:
        assert (output.done, manifest(tmp_path)["images"], manifest(tmp_path)["settings"]) == (set(), 0, other)
        output.add(goods("bc"))
    assert ids(tmp_path) == ["b", "c"]
    assert old["name"] in on_disk(tmp_path)
    clock.now += HOUR + 1
    with Output.open(place(tmp_path), other, clock=clock):
        pass
    assert old["name"] not in on_disk(tmp_path)
    assert (ids(tmp_path), on_disk(tmp_path)) == (["b", "c"], known(tmp_path))


def test_retry_redoes_errors_and_leaves_the_rest_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redoing, "ERRORS_A_PART", 2)
    write(tmp_path, table(good("a"), bad("b")), table(bad("c"), good("d"), bad("e")), table(bad("f")))
    fine = [part for part in manifest(tmp_path)["parts"] if not part["errors"]]
    with Output.open(place(tmp_path), SETTINGS, retry_errors=True) as output:
        assert output.done == {"a", "d"}
        assert ids(tmp_path) == [*"abcdef"]
        output.add(table(good("c"), bad("b", "image_not_found")))
        output.flush()
        assert ids(tmp_path) == [*"abcdef"]
        output.add(goods("e"))
        output.add(goods("c"))
    codes = {row["id"]: row["error"] and row["error"]["code"] for row in listed(tmp_path)}
    kept = {"b": "image_not_found", "f": "image_undecodable"}
    assert codes == {**dict.fromkeys("acde"), **kept}
    assert len(listed(tmp_path)) == 6
    said = manifest(tmp_path)
    assert [part for part in said["parts"] if part in fine] == fine
    assert said["errors"] == 2
    assert on_disk(tmp_path) == known(tmp_path)


def test_redoing_a_few_costs_those_alone(tmp_path: Path) -> None:
    errors = Redoing(place(tmp_path))
    for part in range(10):
        errors.add((f"{part}-{number}" for number in range(5_000)), f"parts/{part}.parquet")
    tracemalloc.start()
    try:
        errors.forget(["3-7", "4-8"], {f"parts/{part}.parquet": f"parts/left-{part}.parquet" for part in (3, 4)})
        assert tracemalloc.get_traced_memory()[1] < 10_000  # bytes; of 50,000 ids it would be millions
    finally:
        tracemalloc.stop()
    with pytest.raises(OutputError, match=r"parts/left-4\.parquet is not there"):
        errors.rewritten(["3-7", "4-8", "4-9"], "parts/next")


def test_without_retry_errors_are_done(tmp_path: Path) -> None:
    write(tmp_path, table(good("a"), bad("b")))
    write(tmp_path, goods("ab"))
    assert Counter(row["error"] is None for row in listed(tmp_path)) == {True: 1, False: 1}


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "thesis.doc").touch()
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"has files in it and no _manifest.json"):
            Output.open(place(tmp_path), SETTINGS, overwrite=overwrite)
    with pytest.raises(OutputError, match="is a file"):
        Output.open(place(tmp_path / "thesis.doc"), SETTINGS)
    assert on_disk(tmp_path) == {".DS_Store", "thesis.doc"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": 1}', "damaged"),
        ('{"format": 2, "text2mask": "9.1"}', "made by a later text2mask"),
    ],
)
def test_a_manifest_that_is_none(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "_manifest.json").write_text(text)
    with pytest.raises(OutputError, match=complaint):
        Output.open(place(tmp_path), SETTINGS, overwrite=True)
    assert (tmp_path / "_manifest.json").read_text() == text


def test_parts_that_are_gone_or_damaged_are_told(tmp_path: Path) -> None:
    write(tmp_path, goods("a"))
    [part] = manifest(tmp_path)["parts"]
    (tmp_path / part["name"]).write_bytes(b"PAR1")
    with pytest.raises(OutputError, match=f"{part['name']} is damaged"):
        Output.open(place(tmp_path), SETTINGS)
    (tmp_path / part["name"]).unlink()
    with pytest.raises(OutputError, match=f"{part['name']} is not there"):
        Output.open(place(tmp_path), SETTINGS)
    assert manifest(tmp_path)["run"] is None


KILLED = """
import os, signal, sys
from pathlib import Path
from deployments.jobs.output import Output
from deployments.jobs.storage import place
from tests.deployments.jobs.made import SETTINGS, goods

with Output.open(place(sys.argv[1]), SETTINGS) as output:
    output.add(goods("ab"))
    output.flush()
    output.add(goods("cd"))
    for orphan in ("parts/x.parquet", "parts/.x.parquet.0123", "._manifest.json.0123"):
        Path(sys.argv[1], orphan).touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_is_followed_at_once(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=ROOT, check=False, timeout=60)
    assert done.returncode == -9
    said = manifest(tmp_path)
    assert (said["images"], said["complete"]) == (2, False)
    assert said["run"]["pid"] != os.getpid()
    with Output.open(place(tmp_path), SETTINGS) as output:
        assert output.done == {"a", "b"}
        output.add(goods("abcd"))
    assert ids(tmp_path) == [*"abcd"]
    assert on_disk(tmp_path) == known(tmp_path)
