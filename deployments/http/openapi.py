"""What `/openapi.json` says of bodies that are read by hand: bytes are counted before anything is parsed."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from deployments.http.errors import STATUS
from deployments.http.schemas import SegmentFields, SegmentRequest

_REF = "#/components/schemas/{model}"

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "param"],
            "properties": {
                "code": {"type": "string", "enum": sorted(STATUS)},
                "message": {"type": "string"},
                "param": {"type": ["string", "null"]},
            },
        }
    },
}

ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": ", ".join(sorted(code for code, its in STATUS.items() if its == status)),
        "content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}},
    }
    for status in sorted(set(STATUS.values()))
}

SEGMENT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": _REF.format(model="SegmentRequest")}},
            "multipart/form-data": {"schema": {"$ref": _REF.format(model="SegmentForm")}},
        },
    }
}


def install(app: FastAPI) -> None:
    """Add the schemas that `ANSWERS` and `SEGMENT` point to."""
    generate = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            generate().setdefault("components", {}).setdefault("schemas", {}).update(_schemas())
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = complete  # type: ignore[method-assign]  # the way FastAPI's manual shows


def _schemas() -> dict[str, Any]:
    found: dict[str, Any] = {"Error": _ERROR}
    models: dict[str, type[BaseModel]] = {"SegmentRequest": SegmentRequest, "SegmentForm": SegmentFields}
    for name, model in models.items():
        schema = model.model_json_schema(ref_template=_REF)
        found.update(schema.pop("$defs", {}))
        found[name] = schema
    form = found["SegmentForm"]
    form["description"] = "The same fields as a form. A list in `prompt` is JSON text."
    form["properties"]["image"] = {"type": "string", "format": "binary"}
    form["required"] = ["image", *form["required"]]
    return found
