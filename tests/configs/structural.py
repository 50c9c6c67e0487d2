"""Objects against the schema of a CustomResourceDefinition, unknown fields included: the API server drops those in
silence, and what one thought to have configured is not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def faults(schema: Schema, value: object, path: str = "") -> Iterator[str]:
    """What of `value` the schema does not allow, each with its path."""
    if schema.get("x-kubernetes-int-or-string"):
        if isinstance(value, bool) or not isinstance(value, int | str):
            yield f"{path}: neither integer nor string"
        elif isinstance(value, str):
            yield from _text(schema, value, path)
        return
    if value is None and schema.get("nullable"):
        return
    wanted = schema.get("type")
    if wanted is not None and not _is(value, wanted):
        yield f"{path}: no {wanted}"
    elif "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    elif isinstance(value, dict):
        yield from _members(schema, value, path)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from faults(schema.get("items", {}), item, f"{path}[{index}]")
    elif isinstance(value, str):
        yield from _text(schema, value, path)
    elif isinstance(value, int | float) and not _in_range(schema, value):
        yield f"{path}: {value} is out of range"


def _is(value: object, wanted: str) -> bool:
    if isinstance(value, bool) and wanted != "boolean":  # to Python a bool is an int
        return False
    return isinstance(value, _TYPES[wanted])


def _in_range(schema: Schema, value: float) -> bool:
    return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))


def _members(schema: Schema, value: dict[str, Any], path: str) -> Iterator[str]:
    known = schema.get("properties", {})
    others = schema.get("additionalProperties", schema.get("x-kubernetes-preserve-unknown-fields", False))
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}.{name}: missing"
    for name, member in value.items():
        if name in known:
            yield from faults(known[name], member, f"{path}.{name}")
        elif isinstance(others, Mapping):
            yield from faults(others, member, f"{path}.{name}")
        elif not others:
            yield f"{path}.{name}: unknown"


def _text(schema: Schema, value: str, path: str) -> Iterator[str]:
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{path}: {value!r} is not of the form {schema['pattern']}"
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield f"{path}: {value!r} is too short or too long"
