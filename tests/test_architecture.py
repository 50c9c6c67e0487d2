"""Imports run one way: cli -> deployments -> pipeline; and what must stay light stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SERVING = ("ray", "starlette", "fastapi", "uvicorn", "deployments")
MODELS = ("torch", "torchvision", "transformers", "safetensors", "groundingdino", "segment_anything")
TORCH_FREE = (
    "errors",
    "stages",
    "prompt",
    "query",
    "scalars",
    "shape_buckets",
    "packing",
    "labelling",
    "image",
    "masks",
    "selection",
    "tiling",
    "seams",
    "pieces",
    "windows",
    "result",
    "polygons",
    "polygon_fill",
    "formats.masks",
    "formats.coco",
    "formats.labelme",
    "formats.label_studio",
    "formats.supervision",
    "mask_prompts",
    "decoder_items",
    "mask_result",
    "annotations",
    "evaluation",
    "overlay",
    "palette",
    "plates",
    "pictures",
    "langsam",
    "bundle",
    "models.download",
)


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(source: str, package: str) -> Iterator[str]:
    """Absolute names of all modules that `source` imports, anywhere in it; `package` is the one it lies in."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def strays(path: Path, forbidden: tuple[str, ...]) -> list[str]:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    names = imported(path.read_text(encoding="utf-8"), package)
    return [name for name in names if any(name == stray or name.startswith(f"{stray}.") for stray in forbidden)]


def loaded_after(statements: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `statements`."""
    code = f"{statements}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_the_walk_sees_every_form_of_import() -> None:
    source = "import ray\ndef f():\n  from torch.nn import Linear\n  from .. import deployments\n  from .x import y"
    assert list(imported(source, "pipeline.models")) == [
        "ray",
        "torch.nn.Linear",
        "pipeline.deployments",
        "pipeline.models.x.y",
    ]


@pytest.mark.parametrize("path", modules("pipeline"), ids=short)
def test_pipeline_knows_nothing_of_serving(path: Path) -> None:
    assert strays(path, SERVING) == []


@pytest.mark.parametrize("path", [*modules("deployments/http"), ROOT / "deployments" / "ingress.py"], ids=short)
def test_the_http_side_knows_nothing_of_models(path: Path) -> None:
    assert strays(path, MODELS) == []


@pytest.mark.parametrize("path", modules("deployments"), ids=short)
def test_nothing_is_built_on_the_command_line(path: Path) -> None:
    if ROOT / "deployments" / "cli" not in path.parents and path.name != "__main__.py":
        assert strays(path, ("deployments.cli",)) == []


@pytest.mark.parametrize("package", ["pipeline", "deployments"])
def test_packages_are_cheap_to_import(package: str) -> None:
    assert loaded_after(f"import {package}; dir({package})").isdisjoint({"torch", "ray", "transformers", "fastapi"})


@pytest.mark.parametrize("package", ["pipeline", "deployments"])
def test_lazy_names_are_there(package: str) -> None:
    loaded_after(
        f"import {package} as p\nfor name in p.__all__: getattr(p, name)\nassert {{*p.__all__}} <= {{*dir(p)}}"
    )
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        getattr(__import__(package), "nonsense")  # noqa: B009


@pytest.mark.parametrize("module", TORCH_FREE)
def test_modules_without_torch(module: str) -> None:
    assert "torch" not in loaded_after(f"import pipeline.{module}")


def test_the_ingress_runs_without_torch() -> None:
    names = [f"deployments.http.{path.stem}" for path in modules("deployments/http") if path.stem != "__init__"]
    assert "torch" not in loaded_after("\n".join(f"import {name}" for name in [*names, "deployments.ingress"]))
