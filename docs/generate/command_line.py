"""docs/reference/command-line.md: what `--help` says, command by command."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from typer.main import get_command

from deployments.cli import app
from docs.generate.markdown import code, document, table


def page() -> str:
    return document("Command line", *_commands("text2mask", get_command(app)))


def _commands(name: str, command: Any) -> Iterator[str]:
    """A command's part, then those of the commands below it."""
    below = getattr(command, "commands", {})
    yield f"## `{name}`"
    yield _plain(command.help or "")
    rows = [_row(one) for one in command.params if not one.hidden and one.name not in _OF_TYPER] if not below else []
    if rows:
        yield table(("name", "value", "default", "why"), rows)
    for child in below.values():
        yield from _commands(f"{name} {child.name}", child)


_OF_TYPER = ("help", "install_completion", "show_completion")


def _row(parameter: Any) -> tuple[str, str, str, str]:
    is_argument = parameter.param_type_name == "argument"
    name = (parameter.metavar or parameter.name.upper()) if is_argument else ", ".join(parameter.opts)
    default = "required" if parameter.required else _default(parameter)
    variable = f" Also: `{parameter.envvar}` in the environment." if parameter.envvar else ""
    return code(name), _kind(parameter), default, _plain(parameter.help or "") + variable


def _kind(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "flag"
    several = ", several" if getattr(parameter, "multiple", False) or parameter.nargs == -1 else ""
    low, high = parameter.min, parameter.max
    bounds = f", {low} to {high}" if high is not None else f", at least {low}" if low is not None else ""
    return _name(parameter.type_descriptor.annotation) + bounds + several


def _name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(code(one) for one in get_args(annotation))
    if get_args(annotation):  # `list[X]`, `X | None`
        return " or ".join(_name(one) for one in get_args(annotation) if one is not NoneType)
    if issubclass(annotation, Enum):
        return " or ".join(code(one.value) for one in annotation)
    return {str: "text", int: "integer", float: "number", Path: "path"}[annotation]


def _default(parameter: Any) -> str:
    value = parameter.default
    if value in (None, (), []) or (isinstance(value, bool) and not value):
        return ""
    return code(value)


def _plain(text: str) -> str:
    """Without what steers its layout on a terminal."""
    return text.replace("\b\n", "").replace("\f", "").replace("\\[", "[")
