"""Settings as their sources write them: nested, dotted, or as the text of an environment variable."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from deployments.setting_names import SettingsError

Path = tuple[str, ...]


def leaves(values: Mapping[str, Any], above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """`{"a": {"b": 1}}` -> `("a", "b"), 1`."""
    for name, value in values.items():
        path = (*above, str(name))
        if isinstance(value, Mapping) and value:
            yield from leaves(value, path)
        else:
            yield path, value


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` -> `{"a": {"b": 1}}`. Only the command line has dotted names; an alias in a file may hold a dot."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        put(found, tuple(name.split(".")), value)
    return found


def put(into: dict[str, Any], path: Path, value: Any) -> None:
    for part in path[:-1]:
        below = into.get(part, {})
        # Anew: the caller's own mapping stays as it was. A section that another source gave as a plain value goes.
        into[part] = dict(below) if isinstance(below, Mapping) else {}
        into = into[part]
    into[path[-1]] = value


def parsed(model: type[BaseModel], path: Path, value: Any) -> Any:
    """The value at `path` of `model`: a text that stands for a list, a mapping or nothing (`null`) is read as JSON.

    Raises SettingsError where such a text is no JSON.
    """
    annotation = _annotation(model, path)
    if not isinstance(value, str) or annotation is None:
        return value
    if value.strip() == "null" and types.NoneType in get_args(annotation):
        return None
    if value.lstrip()[:1] in ("[", "{") and _is_structured(annotation):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise SettingsError(f"{'.'.join(path)}: not valid JSON") from None
    return value


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model in `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := section_of(one)) is not None), None)


def _annotation(model: type[BaseModel], path: Path) -> Any:
    """The type of the setting at `path`; None where there is none, or a name of the operator's own choice."""
    field = model.model_fields.get(path[0])
    if field is None or len(path) == 1:
        return None if field is None else field.annotation
    below = None if get_origin(field.annotation) is tuple else section_of(field.annotation)
    return None if below is None else _annotation(below, path[1:])


def _is_structured(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (tuple, dict):
        return True
    if isinstance(annotation, type):
        return issubclass(annotation, BaseModel)
    return any(_is_structured(one) for one in get_args(annotation))
