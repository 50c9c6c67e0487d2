"""`bundle.json`, read strictly: what it may say, and what each key must look like. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.models.architectures import ARCHITECTURES, DetectorArchitecture
from pipeline.models.registry import KINDS, BundleError, Kind, unknown_name

LABEL_RULES = ("span_mean",)
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
MAX_TOKENS = 256  # the length to which GroundingDINO pads its token scores

Check = tuple[Callable[[Any], bool], str]


def _number(low: float, high: float) -> Check:
    def holds(value: Any) -> bool:
        return type(value) in (int, float) and low <= value <= high

    return holds, f"a number from {low} to {high}"


def _one_of(values: tuple[str, ...]) -> Check:
    return lambda value: value in values, "one of " + ", ".join(repr(value) for value in values)


def _text(pattern: str, meaning: str) -> Check:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, meaning


REQUIRED: dict[str, Check] = {
    "kind": _one_of(KINDS),
    "architecture": _one_of(tuple(ARCHITECTURES)),
    "weights": _text(r".+", "the name of a file in the bundle's folder"),
    "sha256": _text(r"[0-9a-fA-F]{64}", "the SHA-256 of the weight file, 64 hex digits"),
}
OPTIONAL: dict[str, Check] = {
    "name": _text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "letters, digits and . _ - (64 at most)"),
    "licence": _text(r".+", "a text"),
}
DETECTOR_ONLY: dict[str, Check] = {
    "vocabulary": _text(r".+", "the name of a file in the bundle's folder"),
    "box_threshold": _number(0, 1),
    "text_threshold": _number(0, 1),
    "label_rule": _one_of(LABEL_RULES),
    "max_tokens": (lambda value: type(value) is int and 4 <= value <= MAX_TOKENS, f"an integer from 4 to {MAX_TOKENS}"),
}
CHECKS = REQUIRED | OPTIONAL | DETECTOR_ONLY


def read(folder: Path) -> dict[str, Any]:
    """The checked content of `folder / "bundle.json"`. Raises BundleError for anything that is not as it must be."""
    path = folder / "bundle.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except FileNotFoundError:
        raise BundleError(f"{folder} holds no bundle.json; docs/bundles.md says how to write one.") from None
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, not JSON, numbers without end
        raise BundleError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} must hold one JSON object.")
    _check(content, path)
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise BundleError("a key is given twice.")
    return content


def _check(content: dict[str, Any], path: Path) -> None:
    for key, value in content.items():
        if key not in CHECKS:
            hint = unknown_name(key, list(CHECKS))
            raise BundleError(f"{path}: {key!r} is not a key of a bundle; {hint}the keys are {', '.join(CHECKS)}.")
        holds, meaning = CHECKS[key]
        if not holds(value):
            raise BundleError(f"{path}: {key!r} must be {meaning}, not {value!r}.")
    if missing := [key for key in REQUIRED if key not in content]:
        raise BundleError(f"{path} lacks {', '.join(missing)}.")
    kind: Kind = content["kind"]
    if (kind == "detector") != isinstance(ARCHITECTURES[content["architecture"]], DetectorArchitecture):
        raise BundleError(f"{path}: {content['architecture']!r} is not the architecture of a {kind}.")
    if kind == "segmenter" and (stray := [key for key in DETECTOR_ONLY if key in content]):
        raise BundleError(f"{path}: {', '.join(stray)} mean nothing for a segmenter.")


def inside(folder: Path, name: str, key: str) -> Path:
    """The file `name` of the bundle in `folder`. Raises BundleError where it leads outside, or is not there."""
    root = folder.resolve()
    try:
        path = (root / name).resolve()
        found = path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, a loop of links
        path, found = root / key, False
    if not path.is_relative_to(root):
        raise BundleError(f"{folder / 'bundle.json'}: {key!r} leads out of the bundle's folder: {name!r}.")
    if not found:
        raise BundleError(f"{folder / 'bundle.json'}: {key!r} names {name!r}, and there is no such file.")
    return path
