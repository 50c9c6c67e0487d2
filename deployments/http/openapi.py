"""What `/openapi.json` says of bodies that are read by hand: bytes are counted before anything is parsed."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from deployments.http.answer_schemas import ERROR, MASKS_ANSWER, MODELS_ANSWER, SEGMENT_ANSWER, status_answer
from deployments.http.auth import OPEN_PATHS
from deployments.http.errors import STATUS
from deployments.http.mask_schemas import LowRes, MasksForm, MasksRequest
from deployments.http.schemas import DetectForm, DetectRequest, SegmentForm, SegmentRequest

PROMISE = """Words in, masks out: an image and a text such as `car, wheel` give a mask, box, label and score for every
instance.

**What `/v1` promises.** Within `/v1`, fields, codes and meanings that are described here stay. What may come at any
time: new paths, new optional fields in requests, new fields in answers, new error codes under a status that exists, new
warnings, other words in messages; so ignore what you do not know, and decide by `code`, never by `message`. Scores and
masks belong to the model: another model, or newer weights of one, answers differently. What breaks this will be `/v2`,
beside `/v1` for at least one minor version.

A key (`Authorization: Bearer KEY`) is needed unless the operator has switched keys off; see `docs/keys.md`.
"""

_REF = "#/components/schemas/{model}"


def _refusals(*codes: str) -> dict[int | str, dict[str, Any]]:
    """By status, those of `codes`."""
    return {
        status: {
            "description": ", ".join(sorted(code for code in codes if STATUS[code] == status)),
            "content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}},
        }
        for status in sorted({STATUS[code] for code in codes})
    }


ANSWERS = _refusals(*STATUS)


def _answers(
    description: str, model: str, refusals: dict[int | str, dict[str, Any]] = ANSWERS
) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": {"$ref": _REF.format(model=model)}}}
    return {**refusals, 200: {"description": description, "content": content}}


_ONE_EACH = "One detection for each instance, best score first."
SEGMENT_ANSWERS = _answers(f"{_ONE_EACH} With `Accept: image/png`, the image with them drawn into it.", "SegmentAnswer")
SEGMENT_ANSWERS[200]["content"]["image/png"] = {"schema": {"type": "string", "format": "binary"}}
DETECT_ANSWERS = _answers(f"{_ONE_EACH} Without masks.", "SegmentAnswer")
MASKS_ANSWERS = _answers("One detection for each prompt, in their order.", "MasksAnswer")
MODELS_ANSWERS = _answers("The default first.", "ModelsAnswer", _refusals("unauthenticated", "rate_limited"))
HEALTHZ_ANSWERS = _answers("It answers.", "HealthzAnswer", {})
READYZ_ANSWERS = _answers("Every stage could answer.", "ReadyzAnswer", _refusals("not_ready"))


_HEADERS = {
    "x-request-id": {
        "description": "The caller's where it is harmless, else a new one; the same as `id` in an answer.",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
    },
    "server-timing": {
        "description": "Milliseconds: `read`, the stages that had work, and `total`; see docs/observe.md.",
        "schema": {"type": "string"},
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


SEGMENT, DETECT, MASKS = _bodies("Segment"), _bodies("Detect"), _bodies("Masks")


def install(app: FastAPI, limits: dict[str, Any]) -> None:
    """Add the schemas that the above point to, and `limits` as `x-limits`."""
    generate = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            document["x-limits"] = limits
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(_schemas())
            components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            components["headers"] = _HEADERS
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    for answer in operation["responses"].values():
                        names = ["x-request-id", "server-timing"][: 2 if path.startswith("/v1/") else 1]
                        answer["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
                    operation["security"] = [{}] if path in OPEN_PATHS else [{"key": []}, {}]
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = complete  # type: ignore[method-assign]  # the way FastAPI's manual shows


def _schemas() -> dict[str, Any]:
    found: dict[str, Any] = {
        "Error": ERROR,
        "SegmentAnswer": SEGMENT_ANSWER,
        "MasksAnswer": MASKS_ANSWER,
        "ModelsAnswer": MODELS_ANSWER,
        "HealthzAnswer": status_answer("ok"),
        "ReadyzAnswer": status_answer("ready"),
    }
    models: dict[str, type[BaseModel]] = {
        "SegmentRequest": SegmentRequest,
        "SegmentForm": SegmentForm,
        "DetectRequest": DetectRequest,
        "DetectForm": DetectForm,
        "MasksRequest": MasksRequest,
        "MasksForm": MasksForm,
        "LowRes": LowRes,
    }
    for name, model in models.items():
        schema = model.model_json_schema(ref_template=_REF)
        found.update(schema.pop("$defs", {}))
        found[name] = schema
    for form in (found["SegmentForm"], found["DetectForm"], found["MasksForm"]):
        form["properties"] = {name: _as_text(field) for name, field in form["properties"].items()}
        form["properties"]["image"] = {"type": "string", "format": "binary"}
        form["required"] = ["image", *form.get("required", [])]
    return found


def _as_text(field: dict[str, Any]) -> dict[str, Any]:
    """A field's schema in a form, where all is text: a list or an object is JSON, and null is to leave it out."""
    branches = [
        {"type": "string", "contentMediaType": "application/json", "contentSchema": one}
        if "$ref" in one or one["type"] == "array"
        else one
        for one in _branches(field)
        if one.get("type") != "null"
    ]
    about = {key: field[key] for key in ("title", "description", "default") if field.get(key) is not None}
    return {**about, **(branches[0] if len(branches) == 1 else {"anyOf": branches})}


def _branches(schema: dict[str, Any]) -> list[dict[str, Any]]:
    inner = schema.get("anyOf", schema.get("oneOf"))
    return [schema] if inner is None else [branch for one in inner for branch in _branches(one)]


def main() -> None:
    """Print the document of a service with default settings, as `openapi.json` holds it."""
    from deployments.admission_settings import AdmissionSettings, Limits
    from deployments.http.app import build
    from deployments.image_ids import ImageIds
    from deployments.ingress import Ingress

    async def is_ready() -> bool:
        return False

    limits = Limits()
    app = build(
        Ingress((), limits.of_images(), is_ready, ImageIds("")),
        max_timeout_s=limits.max_timeout_s,
        max_body_s=limits.max_body_s,
        admission=AdmissionSettings(),
    )
    print(json.dumps(app.openapi(), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
