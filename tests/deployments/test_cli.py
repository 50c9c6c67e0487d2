"""The command line, as far as it goes without models and without Ray; and the port check."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deployments.cli import app
from deployments.launch import PortTakenError, check_port, free_port, running
from deployments.settings import SettingsError
from pipeline import __version__
from pipeline.models.registry import CHECKPOINTS
from tests.deployments.fakes import picture


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERM": "dumb", **environment})


def complaint(*arguments: str) -> str:
    """What the command says when it refuses: one line, no traceback, status 1."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def test_version() -> None:
    first, *others = run("--version").stdout.splitlines()
    assert first == __version__
    assert [line.partition(" ")[0] for line in others] == ["torch", "ray"]


@pytest.mark.parametrize("command", ["predict", "eval", "serve", "keys", "models", "download"])
def test_every_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert command in run().output


def test_models_lists_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXT2MASK_CHECKPOINTS", str(tmp_path))
    (tmp_path / CHECKPOINTS["vit_b"].file).touch()
    result = run("models")
    assert result.exit_code == 0
    for name in ("tiny", *CHECKPOINTS):
        assert name in result.stdout
    assert CHECKPOINTS["vit_b"].file in result.stdout.replace("\n", "")


def test_a_model_that_does_not_exist_is_one_readable_line(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(picture())
    assert "huge" in complaint("predict", str(image), "car", "--model", "huge")
    assert "swimt" in complaint("download", "swimt")


def test_a_configuration_that_is_wrong_is_one_readable_line(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("applications: 5")
    assert "exactly one application" in complaint("serve", "--config", str(path))


def test_a_taken_port_is_said_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in complaint("serve", "--port", str(port))
        with pytest.raises(PortTakenError):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


def test_a_host_that_is_not_ours_is_said_too() -> None:
    assert "cannot listen on 192.0.2.77" in complaint("serve", "--host", "192.0.2.77")


@pytest.mark.parametrize(
    ("exporter", "text"), [("nowhere.at_all:otlp", "cannot be imported"), ("deployments.logs:otlp", "has no function")]
)
def test_an_exporter_that_is_not_there_is_said_and_nothing_starts(exporter: str, text: str) -> None:
    pytest.importorskip("ray")
    args = {"tracing.enabled": True, "tracing.exporter": exporter}
    with pytest.raises(SettingsError, match=text), running(args, {"port": free_port()}):
        pass


def test_the_metrics_want_a_port_of_their_own() -> None:
    port = free_port()
    with pytest.raises(SettingsError, match=f"port {port}"), running({}, {"port": port}, metrics_port=port):
        pass
