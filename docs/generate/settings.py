"""docs/reference/settings.md: every knob of the service."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from deployments.settings import PREFIX, Settings
from docs.generate.markdown import code, document, table

INTRODUCTION = f"""
Command line > environment > YAML > defaults; resolved once, where the app is built. A wrong name or value stops the
start with one line that says which. Where each is read, and what changes without a restart: [settings](../settings.md).

- **YAML**: under `args: settings:` of a Serve configuration, as in [local.yaml](../../configs/local.yaml).
- **Environment**: `{PREFIX}` and the name in capitals, `__` for the dot: `{PREFIX}DETECTOR__MAX_BATCH_SIZE=4`.
- **Command line**: `text2mask serve --set detector.max_batch_size=4`, and options of their own for what is set most
  ([command-line.md](command-line.md)); `serve run deployments.app:build_app detector.max_batch_size=4`.
"""

_PLAIN = {int: "integer", float: "number", bool: "`true` or `false`", str: "text", Path: "path"}


def page() -> str:
    parts = [INTRODUCTION, _section_table(Settings, "")]
    for name, section, optional in _sections(Settings):
        title = f"## `{name}`" + (" (unset by default)" if optional else "")
        parts += [title, _doc(section), _section_table(section, f"{name}.")]
    return document("Settings", *parts)


def _sections(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, type[BaseModel], bool]]:
    """Each section below `model` with its dotted name, depth first; `[]` stands for an index of a list."""
    for name, field in model.model_fields.items():
        below, suffix = _section_of(field.annotation)
        if below is not None:
            path = f"{above}{name}{suffix}"
            yield path, below, field.default is None
            if not suffix:  # an entry of a list repeats sections that have a place of their own
                yield from _sections(below, f"{path}.")


def _section_of(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    """The section in `X`, `X | None` or `tuple[X, ...]`, and what to add to its name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    suffix = "[]" if get_origin(annotation) is tuple else ""
    for one in get_args(annotation):
        found, below = _section_of(one)
        if found is not None:
            return found, suffix + below
    return None, ""


def _section_table(model: type[BaseModel], prefix: str) -> str:
    rows = [
        (code(prefix + name), _type(field), _default(field), field.description or "")
        for name, field in model.model_fields.items()
        # A section has a table of its own, but for those of a list's entries, which repeat it.
        if "[]" in prefix or _section_of(field.annotation)[0] is None or get_origin(field.annotation) is tuple
    ]
    return table(("name", "value", "default", "why"), rows) if rows else ""


def _doc(section: type[BaseModel]) -> str:
    doc = section.__doc__
    return "" if doc is None or doc == BaseModel.__doc__ else "\n".join(line.strip() for line in doc.splitlines())


def _type(field: FieldInfo) -> str:
    bounds = [_bound(one) for one in field.metadata]
    return ", ".join([_name(field.annotation), *(bound for bound in bounds if bound)])


def _bound(one: Any) -> str:
    match one:
        case Ge():
            return f"at least {one.ge}"
        case Gt():
            return f"above {one.gt}"
        case Le():
            return f"at most {one.le}"
        case MinLen():
            return f"at least {one.min_length} characters" if one.min_length > 1 else "not empty"
    return ""


def _name(annotation: Any) -> str:
    """A type as a person who writes YAML would call it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_name(one) for one in inner if one is not types.NoneType)
    if origin is Annotated:
        bounds = [_bound(one) for extra in inner[1:] for one in getattr(extra, "metadata", [extra])]
        return ", ".join([_name(inner[0]), *(bound for bound in bounds if bound)])
    if origin is Literal:
        return " or ".join(code(one) for one in inner)
    if origin is tuple:
        return "list"
    if origin is dict:
        return "mapping"
    if issubclass(annotation, BaseModel):
        return "section"
    return _PLAIN[annotation]


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return code(str(value).lower())
    if isinstance(value, tuple | dict):
        return "empty" if not value else ", ".join(code(one) for one in value)
    return code(value)
