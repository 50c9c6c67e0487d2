"""The Dockerfile, read as text: what a linter would say, and what this repository knows better than one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import pytest

from pipeline import __version__

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text("utf-8")
IGNORE = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
INSTRUCTIONS = {
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "RUN",
    "USER",
    "WORKDIR",
}


@dataclass(frozen=True)
class Step:
    name: str
    value: str


@dataclass(frozen=True)
class Stage:
    base: str
    name: str
    steps: tuple[Step, ...]

    def values(self, name: str) -> list[str]:
        return [step.value for step in self.steps if step.name == name]


def steps() -> list[Step]:
    lines = [line for line in TEXT.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [Step(*line.split(" ", 1)) for line in whole.splitlines()]


def stages() -> list[Stage]:
    found: list[tuple[str, list[Step]]] = []
    for step in steps():
        if step.name == "FROM":
            found.append((step.value, []))
        elif found:
            found[-1][1].append(step)
    return [
        Stage(value.split(" AS ")[0], value.split(" AS ")[1] if " AS " in value else "", tuple(below))
        for value, below in found
    ]


def arguments() -> dict[str, str]:
    return dict(step.value.split("=", 1) for step in steps() if step.name == "ARG" and "=" in step.value)


def test_it_has_no_instruction_that_is_not_meant() -> None:
    assert {step.name for step in steps()} == INSTRUCTIONS  # so no ADD, which fetches and unpacks


def test_bases_are_versions_and_stages() -> None:
    given, names = arguments(), set[str]()
    for stage in stages():
        base = re.sub(r"\$\{(\w+)\}", lambda match: given[match[1]], stage.base)
        if base not in names:
            assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)
        names.add(stage.name)
    assert {"cpu", "cuda"} <= names
    assert given["VARIANT"] == "cuda"


def test_every_argument_is_used() -> None:
    for name in {step.value.split("=")[0] for step in steps() if step.name == "ARG"}:
        assert f"${{{name}}}" in TEXT


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    assert IGNORE[1] == "*"  # nothing, but what is named
    names = {stage.name for stage in stages()}
    copied = set()
    for step in (step for step in steps() if step.name == "COPY"):
        sources = step.value.split()[:-1]
        if sources[0].startswith("--from="):
            assert sources[0].removeprefix("--from=") in names
            continue
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in IGNORE
            copied.add(source)
    assert {f"!{source}" for source in copied} == {line for line in IGNORE if line.startswith("!")}


def test_wheels_are_held_to_the_lock_and_nothing_else_is_installed() -> None:
    pip = [
        step.value for step in steps() if step.name == "RUN" and "pip" in step.value and "uninstall" not in step.value
    ]
    for command in pip:
        assert "--require-hashes" in command or "--no-index" in command
    [extras] = re.findall(r'"text2mask\[([\w,]+)\]"', TEXT)
    known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(extras.split(",")) == {"local", "serve", "jobs", "tracing"} <= known.keys()


def test_packages_of_the_system_leave_no_lists_behind() -> None:
    for step in steps():
        if "apt-get install" in step.value:
            assert "--no-install-recommends" in step.value
            assert step.value.endswith("rm -rf /var/lib/apt/lists/*")
            assert "wget" in step.value  # KubeRay's probe of a worker
            assert not re.search(r"gcc|g\+\+|build-essential|make\b", step.value)


def test_it_ends_as_nobody_with_a_command_that_starts() -> None:
    last = stages()[-1]
    assert re.fullmatch(r"python:\$\{PYTHON\}", last.base)  # of the stages with compilers and caches only a copy
    users = last.values("USER")
    assert users == ["10001:10001"]
    after = [step.name for step in last.steps[last.steps.index(Step("USER", users[0])) :]]
    assert not {"RUN", "COPY"} & set(after)
    assert json.loads(last.values("ENTRYPOINT")[0]) == ["text2mask"]
    assert json.loads(last.values("CMD")[0]) == ["serve"]
    assert "/healthz" in last.values("HEALTHCHECK")[0]
    assert f"VERSION={__version__}" in last.values("ARG")
    environment = " ".join(last.values("ENV"))
    assert "TEXT2MASK_CHECKPOINTS=/weights" in environment
    assert "RAY_USAGE_STATS_ENABLED=0" in environment
    for label in ("title", "version", "revision", "licenses"):
        assert f"org.opencontainers.image.{label}=" in last.values("LABEL")[0]


def test_the_embedded_model_comes_with_the_package() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]["*"]
    assert {"*.safetensors", "bundle.json", "*.txt"} <= set(packages)


def removed() -> list[str]:
    [command] = [step.value for step in steps() if "pip uninstall" in step.value]
    return command.split("--yes")[1].split("&&")[0].split()


def test_what_the_cpu_image_lacks_is_in_the_lock_and_serves_gpus_alone() -> None:
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    for name in removed():
        assert re.search(rf"^{name}==", lock, re.MULTILINE), name
        assert re.match(r"nvidia-|cuda-|triton$", name)


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux's loader would")
def test_torch_loads_nothing_that_the_cpu_image_lacks() -> None:
    import torch

    lacking = {Path(str(file.locate())).resolve() for name in removed() for file in distribution(name).files or ()}
    folder = Path(torch.__file__).parent / "lib"
    if not (folder / "libtorch_cuda.so").is_file():
        pytest.skip("this torch was built without CUDA")
    for library in ("libtorch_global_deps.so", "libtorch_python.so", "libtorch_cuda.so"):
        listed = subprocess.run(["ldd", folder / library], capture_output=True, text=True, check=True).stdout
        assert "libcudnn.so" in listed or library != "libtorch_cuda.so"  # it stays; its parts, libcudnn_*, go
        loaded = {Path(path).resolve() for path in re.findall(r"=> (/\S+)", listed)}
        assert len(loaded) > 3
        assert not loaded & lacking
        assert not [path for path in loaded if path.name.startswith("libcudnn_")]
