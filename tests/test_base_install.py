"""What `pip install text2mask` without extras is good for: the client, the result types and the command line.

The project is built as a wheel and installed, with what it declares and at the locked versions, into an environment of
its own; nothing there can lean on what happens to be installed here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployments.client.scripted_server import refusal, scripted
from tests.deployments.client.test_client import PICTURE, answer

ROOT = Path(__file__).parents[1]
EXTRAS = ("torch", "torchvision", "transformers", "ray", "fastapi", "starlette", "uvicorn", "yaml", "python_multipart")
UV = (sys.executable, "-m", "uv", "--quiet")

USE = """
import asyncio, sys
from importlib.util import find_spec
from pathlib import Path
import numpy as np
import pipeline
from deployments import AsyncClient, Client, ClientError

url, picture = sys.argv[1], Path(sys.argv[2])
with Client(url, timeout_s=30) as client:
    result = client.segment(picture, "car")
    assert result.labels == ("car",) and result.masks.shape == (1, 20, 30), result
    assert result.overlay(np.zeros((20, 30, 3), np.uint8)).shape == (20, 30, 3)
    assert pipeline.Result.from_json(result.to_json()) == result and len(result.to_coco()["annotations"]) == 1
    assert [len(one.unwrap()) for one in client.segment_many([picture] * 3, "car")] == [1, 1, 1]
    try:
        client.segment(picture, "car")
    except ClientError as error:
        assert error.code == "invalid_value"

async def main():
    async with AsyncClient(url) as client:
        assert await client.segment(picture, "car") == result

asyncio.run(main())
print(*(name for name in sys.argv[3:] if find_spec(name)))
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with the base install."""
    folder = tmp_path_factory.mktemp("base")
    for name in ("pipeline", "deployments"):  # a copy, since setuptools builds where the source is
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder / "source")
    python = ("--python", sys.executable)
    build = ("build", "--wheel", "--no-build-isolation", "--offline", *python, "--out-dir", str(folder))
    target, wheel = folder / "environment", folder / f"text2mask-{_version()}-py3-none-any.whl"
    for command in (
        (*build, str(folder / "source")),
        ("venv", *python, str(target)),
        ("pip", "install", "--python", str(target), "--constraint", str(ROOT / "requirements.lock"), str(wheel)),
    ):
        done = subprocess.run([*UV, *command], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
    return target / ("Scripts" if sys.platform == "win32" else "bin")


def _version() -> str:
    from pipeline import __version__

    return __version__


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False, env={})


def test_the_client_works_and_nothing_heavy_is_there(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE)
    (tmp_path / "use.py").write_text(USE)
    script = [*[answer()] * 4, refusal(422, "invalid_value"), answer()]
    with scripted(*script) as server:
        done = run(bare / "python", "use.py", server.url, "a.png", *EXTRAS, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_the_command_line_starts(bare: Path, tmp_path: Path) -> None:
    version = run(bare / "text2mask", "--version", folder=tmp_path)
    assert (version.returncode, version.stdout.split()[0]) == (0, _version()), version.stderr
    done = run(bare / "text2mask", "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout


def test_a_service_stands_in_for_the_models(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE)
    with scripted(forever=answer()) as server:
        done = run(bare / "text2mask", "predict", "a.png", "car", "--server", server.url, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["detections"][0]["label"] == "car"


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (["predict", "a.png", "car"], "local"),
        (["serve"], "local,serve"),
        (["eval", "--annotations", "a.png", "--images", "."], "local,serve,jobs"),
    ],
    ids=["predict", "serve", "eval"],
)
def test_what_needs_an_extra_names_it(bare: Path, tmp_path: Path, command: list[str], extra: str) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE)
    done = run(bare / "text2mask", *command, folder=tmp_path)
    assert done.returncode == 1
    assert f"is not installed; pip install 'text2mask[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "extra"), [("pipeline.TextToMask", "local"), ("deployments.build_app", "local,serve")]
)
def test_names_that_need_an_extra_name_it(bare: Path, tmp_path: Path, name: str, extra: str) -> None:
    done = run(bare / "python", "-c", f"import {name.partition('.')[0]}\n{name}", folder=tmp_path)
    assert done.stderr.strip().endswith(f"; pip install 'text2mask[{extra}]'")
