"""docs/reference/http.md: routes, fields, errors and limits, out of the OpenAPI document."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deployments.http.errors import STATUS
from docs.generate.markdown import code, document, table

OPENAPI = Path(__file__).parents[2] / "openapi.json"
Json = Mapping[str, Any]


def page() -> str:
    api = json.loads(OPENAPI.read_text(encoding="utf-8"))
    schemas: Json = api["components"]["schemas"]
    introduction = (
        f"{api['info']['description']}\n\nThe machine's form of this page is [openapi.json](../../openapi.json)."
    )
    parts = [introduction]
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            parts += [f"## `{method.upper()} {path}`", operation["summary"], *_operation(operation, schemas)]
    parts += ["## Errors", _ERRORS, table(("code", "status"), ((code(name), str(STATUS[name])) for name in STATUS))]
    limits = (
        (code(name), str(one["maximum"]), one["unit"], one["error"] or "") for name, one in api["x-limits"].items()
    )
    parts += ["## Limits", _LIMITS, table(("limit", "maximum", "unit", "error beyond"), limits)]
    return document("HTTP API", *parts)


_ERRORS = """\
`{"error": {"code", "message", "param"}}`; decide by `code`. `param` names the field at fault, or is null. With 429 and
503 comes `Retry-After`, in seconds, where it is known."""
_LIMITS = "As `x-limits` of the document says with the default settings; an operator may set some of them lower."


def _operation(operation: Json, schemas: Json) -> Iterator[str]:
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        request = _resolved(content["application/json"]["schema"], schemas)
        yield "Request, as JSON, or as a form with `image` as a file part (a list is JSON text there):"
        yield _fields(request, schemas, defaults=True)
    answer = operation["responses"]["200"]
    yield f"Answer: {answer['description']}"
    schema = answer.get("content", {}).get("application/json", {}).get("schema")
    if schema is not None:
        yield _fields(_resolved(schema, schemas), schemas)
    yield "Status: " + ", ".join(operation["responses"]) + "."


def _fields(schema: Json, schemas: Json, *, defaults: bool = False) -> str:
    rows = []
    for name, field, required in _flat(schema, schemas):
        default = "required" if required else _value(field.get("default"))
        rows.append((code(name), _type(field, schemas), *([default] if defaults else []), field.get("description", "")))
    header = ("field", "value", "default", "meaning") if defaults else ("field", "value", "meaning")
    return table(header, rows)


def _flat(schema: Json, schemas: Json, above: str = "") -> Iterator[tuple[str, Json, bool]]:
    """The fields of an object and of those within it, by dotted name."""
    for name, field in schema.get("properties", {}).items():
        yield f"{above}{name}", field, name in schema.get("required", ())
        inner = _resolved(field, schemas)
        if inner.get("type") == "array":
            yield from _flat(_resolved(inner.get("items", {}), schemas), schemas, f"{above}{name}[].")
        elif above.count(".") < 2:
            yield from _flat(inner, schemas, f"{above}{name}.")


def _resolved(schema: Json, schemas: Json) -> Json:
    """What a reference stands for; of alternatives, the one that is an object, if there is just one."""
    if "$ref" in schema:
        return _resolved(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    return schema


def _type(field: Json, schemas: Json) -> str:
    field = _resolved(field, schemas)
    if "const" in field:
        return code(field["const"])
    if "enum" in field:
        return " or ".join(code(one) for one in field["enum"])
    for key in ("oneOf", "anyOf"):
        if key in field:
            return "; or ".join(dict.fromkeys(_type(one, schemas) for one in field[key]))
    name = field.get("type", "any")
    if isinstance(name, list):
        return "; or ".join(_type({**field, "type": one}, schemas) for one in name)
    name = "list" if name == "array" else name
    if name == "null":
        return name
    bounds = [text.format(_value(field[key])) for key, text in _BOUNDS.items() if key in field]
    if "minimum" in field and "maximum" in field:
        bounds = [f"{_value(field['minimum'])} to {_value(field['maximum'])}"]
    if "maxItems" in field and field.get("minItems") == field["maxItems"]:
        bounds = [f"{field['maxItems']} items"]
    kind = name if not field.get("items") else f"list of {_within(_type(field['items'], schemas))}"
    return ", ".join([kind, *bounds])


def _within(kind: str) -> str:
    return f"({kind})" if " " in kind else kind


_BOUNDS = {
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "above {}",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
}


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return code(str(value).lower())
    return str(value) if isinstance(value, int | float) else code(re.sub(r"\s+", " ", str(value)))
