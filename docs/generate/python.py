"""docs/reference/python.md: the public names of the packages, from their signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from pydantic import BaseModel

import deployments
import deployments.jobs
import pipeline
from docs.generate.markdown import document

_INTRODUCTION = """\
`from pipeline import ...`: what is computed, in this process. `from deployments import ...`: what runs and asks a
service. `from deployments.jobs import ...`: batch jobs. None of the three loads torch or Ray; names that need them
load them when they are used."""
_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):")
_QUOTED = re.compile(r"""(: |-> )(['"])(.*?)\2""")  # annotations, which are texts


def page() -> str:
    parts = [_INTRODUCTION]
    for package in (pipeline, deployments, deployments.jobs):
        for name in sorted(one for one in package.__all__ if not one.startswith("_")):
            parts += _entry(f"{package.__name__}.{name}", getattr(package, name))
    return document("Python", *parts)


def _entry(name: str, thing: Any) -> Iterator[str]:
    yield f"## `{name}`"
    yield _signature(name.rpartition(".")[2], thing)
    yield _doc(thing)
    if inspect.isclass(thing):
        for member, value in vars(thing).items():
            if not member.startswith("_") and (
                callable(value) or isinstance(value, property | classmethod | staticmethod)
            ):
                yield f"### `{name.rpartition('.')[2]}.{member}`"
                if not isinstance(value, property):
                    yield _signature(member, getattr(thing, member))
                yield _doc(value)


def _signature(name: str, thing: Any) -> str:
    if is_dataclass(thing) or (inspect.isclass(thing) and issubclass(thing, BaseModel)):
        return ""  # its attributes are listed in its docstring, or on a page of their own
    try:
        signature = _QUOTED.sub(r"\1\3", str(inspect.signature(thing)))
    except ValueError:
        return ""
    return f"```text\n{_wrapped(name, signature)}\n```"


def _wrapped(name: str, signature: str) -> str:
    """One line if it fits, or else one line an argument."""
    if len(name + signature) <= 100:
        return name + signature
    inside, arrow, result = signature[1:].rpartition(") -> ")
    arguments = "".join(f"    {one},\n" for one in _split(inside if arrow else signature[1:-1]))
    return f"{name}(\n{arguments})" + (f" -> {result}" if arrow else "")


def _split(arguments: str) -> Iterator[str]:
    """At the commas that are within no bracket."""
    depth = start = 0
    for position, letter in enumerate(arguments):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            yield arguments[start:position].strip()
            start = position + 1
    yield arguments[start:].strip()


def _doc(thing: Any) -> str:
    doc = inspect.getdoc(thing) or ""
    return "\n".join(_listed(doc.splitlines()))


def _listed(lines: list[str]) -> Iterator[str]:
    """Section names in bold; the entries of those that hold some (`name: text`) as list items."""
    entries = False
    for line in lines:
        section = _SECTION.fullmatch(line)
        if section:
            entries = section[1] in ("Args", "Attributes", "Raises")
            yield f"**{section[1]}**\n"
        elif line.startswith("    "):
            yield (("  " if line.startswith("     ") else "- ") if entries else "") + line.strip()
        else:
            yield line
