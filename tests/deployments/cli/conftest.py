"""Pictures in folders, and the command line over models that are loaded once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from deployments.cli import app, work
from pipeline.text_to_mask import load_image

DEMO = Path(__file__).parents[3] / "pipeline" / "tiny" / "demo.png"

Run = Callable[..., Result]


class Remembering:
    """`TextToMask.predict`, which answers what it was asked before from memory: most tests ask the same."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._known: dict[tuple[bytes, str], Any] = {}

    def predict(self, image: Any, prompt: Any, **options: Any) -> Any:
        pixels = load_image(image)
        key = pixels.tobytes(), repr((prompt, sorted({"masks": True, **options}.items())))
        if key not in self._known:
            self._known[key] = self._model.predict(pixels, prompt, **options)
        return self._known[key]


@pytest.fixture(scope="session")
def model(in_process: Any) -> Remembering:
    return Remembering(in_process)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Run:
    """`text2mask` with these arguments; a command that needs models gets those that the whole session shares."""

    def load(name: str, device: str, precision: str) -> Any:
        assert (name, device, precision) == ("tiny", "cpu", "float32")
        return request.getfixturevalue("model")

    monkeypatch.setattr(work, "load", load)

    def invoke(*arguments: object, input: bytes | None = None, code: int | None = 0) -> Result:
        result = CliRunner().invoke(app, [str(one) for one in arguments], input, env={"COLUMNS": "200", "TERM": "dumb"})
        assert code is None or result.exit_code == code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return invoke


@pytest.fixture
def complaint(run: Run) -> Callable[..., str]:
    """What a command says that is refused before anything is done: one line, status 2, nothing on standard output."""

    def invoke(*arguments: object, input: bytes | None = None, code: int = 2) -> str:
        result = run(*arguments, input=input, code=code)
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1
        assert result.stderr.startswith("text2mask: ")
        return result.stderr

    return invoke


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """The current folder: a/x.png, b/x.png and c.png are pictures, and b/broken.png is half of one."""
    for name in ("a/x.png", "b/x.png", "c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copyfile(DEMO, tmp_path / name)
    (tmp_path / "b" / "broken.png").write_bytes(DEMO.read_bytes()[:3000])
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)
