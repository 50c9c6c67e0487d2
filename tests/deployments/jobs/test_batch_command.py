"""`text2mask batch` as a person types it: what it refuses, how it ends, what it shows meanwhile."""

from __future__ import annotations

import io
import json
import socket
import threading
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from deployments.cli import app, job_progress
from deployments.jobs.tally import Progress, StageTimes
from tests.deployments.jobs.light import no_models  # noqa: F401  # a fixture


def batch(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["batch", *map(str, arguments)], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / "photos" / name).write_bytes(b"an image")
    return tmp_path


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "what is to be found"),
        (["star", "--endpoint-url", "localhost:9000"], "--endpoint-url: must be http://"),
        (["star", "--detector-replicas", "3:2"], "replicas '3:2'"),
        (["star", "--model", "nosuch"], "nosuch"),
        (["star", "--config", "nosuch.yaml"], "nosuch.yaml"),
        (["star", "--box-threshold", "7"], "box-threshold"),
        (["star", "--tile", "0"], "--tile"),
        (["star", "--prompt-file", "x"], "not both"),
        (["star", "--storage-timeout", "0"], "storage-timeout"),
        (["star", "--out", "nosuch://x"], "nosuch://x"),
        (["star", "--out", "/proc/version/x"], "/proc/version/x"),
    ],
)
def test_what_cannot_be_meant_is_told_in_a_line_and_writes_nothing(options: list[str], said: str, folder: Path) -> None:
    result = batch(folder / "photos", "--out", folder / "labels", *options)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert not (folder / "labels").exists()


def test_an_output_around_the_input_is_told(folder: Path) -> None:
    for out in (folder, folder / "photos"):
        result = batch(folder / "photos", "star", "--out", out)
        assert result.exit_code == 2
        assert "lies in the output" in result.output


@pytest.mark.slow
@pytest.mark.usefixtures("service", "no_models")
def test_how_a_job_ends(folder: Path) -> None:
    """On the session's Ray, whatever its address."""
    (folder / "classes.txt").write_text("red star, large\nring\n")
    command = [folder / "photos", "--out", folder / "labels", "--prompt-file", folder / "classes.txt"]
    first = batch(*command, "--limit", 2, "--progress", "json", "--strict")
    assert first.exit_code == 1
    assert "2 images have an error" in first.stderr
    told = json.loads(first.stdout.splitlines()[-1])
    assert (told["total"], told["done"], told["errors"]) == (2, 2, {"nothing": 2})
    assert batch(*command, "--limit", 2, "--strict").exit_code == 1  # nothing was left to do, and errors are there
    rest = batch(*command, "--progress", "none")
    assert (rest.exit_code, rest.output) == (0, "")
    manifest = json.loads((folder / "labels" / "_manifest.json").read_text())
    assert (manifest["images"], manifest["settings"]["prompt"]) == (3, ["red star, large", "ring"])
    other = batch(folder / "photos", "ring", "--out", folder / "labels")
    assert other.exit_code == 2
    assert "was made with prompt" in other.stderr


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:{port}"])
def test_no_ray_at_the_address(address: str, closed_port: int) -> None:
    from deployments.jobs.connection import check_address
    from deployments.settings import SettingsError

    with pytest.raises(SettingsError, match="no Ray at"):
        check_address(address.format(port=closed_port))


PROGRESS = Progress(
    total=200,
    earlier=20,
    done=80,
    errors={"image_undecodable": 3},
    instances=41,
    elapsed_s=8.0,
    rate=10.0,
    eta_s=10.0,
    failed=3,
    stages={"detector": StageTimes(2, 0.97, 80, {"prepare": 1.25, "forward": 15.5, "finish": 0.1})},
)


def test_what_a_person_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(job_progress, "aside", Console(file=screen, force_terminal=True, width=120))
    with job_progress.display("auto") as tell:
        tell(PROGRESS)
    for words in ("100/200 images", "10.0/s", "10.0 s to go", "97%", "15.5 s", "image_undecodable"):
        assert words in screen.getvalue()


def test_what_a_program_reads_repeats_while_nothing_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job_progress, "EVERY_S", 0.01)
    written = threading.Event()
    real = typer.echo

    def echo(text: str) -> None:
        real(text)
        written.set()

    monkeypatch.setattr(typer, "echo", echo)
    with job_progress.display("json") as tell:
        tell(PROGRESS)
        assert written.wait(10)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) > 1
    assert lines[0]["elapsed_s"] >= 8.0
    assert {**lines[-1], "elapsed_s": 0} == {**PROGRESS.to_json(), "elapsed_s": 0}
