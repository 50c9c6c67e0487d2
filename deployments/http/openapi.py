"""What `/openapi.json` says of bodies that are read by hand: bytes are counted before anything is parsed."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from deployments.http.errors import STATUS
from deployments.http.mask_schemas import LowRes, MasksForm, MasksRequest
from deployments.http.schemas import SegmentForm, SegmentRequest

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

_MASK = {
    "box": {
        "description": "The prompt's, clipped to the image; without one, the mask's bounding box, null if it is empty.",
        "type": ["array", "null"],
        "items": {"type": "number"},
    },
    "mask": {"type": ["object", "null"], "description": "In the form that `masks` asked for."},
    "mask_score": {"type": "number", "description": "The IoU that the model predicts."},
    "area": {"type": "integer", "description": "mask pixels"},
    "low_res": {"$ref": _REF.format(model="LowRes")},
}
_MASKS_ANSWER = {
    "type": "object",
    "required": ["id", "model", "image", "detections", "timings_ms", "warnings"],
    "properties": {
        "id": {"type": "string"},
        "model": {"type": "string"},
        "image": {
            "type": "object",
            "required": ["id", "width", "height"],
            "properties": {"id": {"type": "string"}, "width": {"type": "integer"}, "height": {"type": "integer"}},
        },
        "detections": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["box", "mask", "mask_score", "area"],
                "properties": {
                    **_MASK,
                    "alternatives": {
                        "description": "With `multimask`: all three, best first.",
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["box", "mask", "mask_score", "area"],
                            "properties": _MASK,
                        },
                    },
                },
            },
        },
        "timings_ms": {"type": "object", "additionalProperties": {"type": "number"}},
        "warnings": {"type": "array", "items": {"type": "string"}},
    },
    "examples": [
        {
            "id": "5f0c…",
            "model": "tiny+tiny",
            "image": {"id": "9c1a…", "width": 640, "height": 480},
            "detections": [
                {
                    "box": [559.4, 209.7, 606.1, 267.2],
                    "mask": {"format": "rle", "size": [480, 640], "counts": "…"},
                    "mask_score": 0.93,
                    "area": 1713,
                }
            ],
            "timings_ms": {"encode": 38.0, "masks": 9.3, "total": 48.1},
            "warnings": [],
        }
    ],
}

ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": ", ".join(sorted(code for code, its in STATUS.items() if its == status)),
        "content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}},
    }
    for status in sorted(set(STATUS.values()))
}

MASKS_ANSWERS: dict[int | str, dict[str, Any]] = {
    **ANSWERS,
    200: {
        "description": "One detection for each prompt, in their order.",
        "content": {"application/json": {"schema": {"$ref": _REF.format(model="MasksAnswer")}}},
    },
}


def _bodies(name: str) -> dict[str, Any]:
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": _REF.format(model=f"{name}Request")}},
                "multipart/form-data": {"schema": {"$ref": _REF.format(model=f"{name}Form")}},
            },
        }
    }


SEGMENT, MASKS = _bodies("Segment"), _bodies("Masks")


def install(app: FastAPI) -> None:
    """Add the schemas that the above point to."""
    generate = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            generate().setdefault("components", {}).setdefault("schemas", {}).update(_schemas())
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = complete  # type: ignore[method-assign]  # the way FastAPI's manual shows


def _schemas() -> dict[str, Any]:
    found: dict[str, Any] = {"Error": _ERROR, "MasksAnswer": _MASKS_ANSWER}
    models: dict[str, type[BaseModel]] = {
        "SegmentRequest": SegmentRequest,
        "SegmentForm": SegmentForm,
        "MasksRequest": MasksRequest,
        "MasksForm": MasksForm,
        "LowRes": LowRes,
    }
    for name, model in models.items():
        schema = model.model_json_schema(ref_template=_REF)
        found.update(schema.pop("$defs", {}))
        found[name] = schema
    for form in (found["SegmentForm"], found["MasksForm"]):
        form["properties"]["image"] = {"type": "string", "format": "binary"}
        form["required"] = ["image", *form.get("required", [])]
    return found
