"""What `/openapi.json` says of answers. They are written piece by piece, so no model of theirs exists."""

from __future__ import annotations

from typing import Any

from deployments.http.errors import STATUS

ERROR = {
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
    "low_res": {"$ref": "#/components/schemas/LowRes"},
}
_IMAGE = {
    "type": "object",
    "required": ["id", "width", "height"],
    "properties": {
        "id": {"type": "string", "description": "Stands for the image in later requests, as long as it is kept."},
        "width": {"type": "integer"},
        "height": {"type": "integer"},
    },
}


def _answer(detection: dict[str, Any], example: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An answer whose detections are so, with `more` fields of its own."""
    properties: dict[str, Any] = {
        "id": {"type": "string", "description": "Of the request: `x-request-id`, or a new one."},
        "model": {"type": "string"},
        "image": _IMAGE,
        "detections": {"type": "array", "items": detection},
        "timings_ms": {"type": "object", "additionalProperties": {"type": "number"}},
        "warnings": {"type": "array", "items": {"type": "string"}},
        **more,
    }
    return {"type": "object", "required": sorted(properties), "properties": properties, "examples": [example]}


MASKS_ANSWER = _answer(
    {
        "type": "object",
        "required": ["box", "mask", "mask_score", "area"],
        "properties": {
            **_MASK,
            "alternatives": {
                "description": "With `multimask`: all three, best first.",
                "type": "array",
                "items": {"type": "object", "required": ["box", "mask", "mask_score", "area"], "properties": _MASK},
            },
        },
    },
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
    },
)

_FOUND = {
    "class_id": {"type": "integer", "description": "Index of the class in the prompt."},
    "label": {"type": "string", "description": "The class as the caller wrote it."},
    "score": {"type": "number", "description": "Highest token probability within the class's words."},
    "text_score": {"type": "number", "description": "Mean token probability over the class's words."},
    "box": {"type": "array", "items": {"type": "number"}, "description": "xyxy, pixels of the upright image."},
    "mask": {"type": ["object", "null"], "description": "In the form that `masks` asked for; null without masks."},
    "mask_score": {"type": ["number", "null"], "description": "The IoU that the segmenter predicts."},
    "area": {"type": ["integer", "null"], "description": "mask pixels"},
}

SEGMENT_ANSWER = _answer(
    {"type": "object", "required": sorted(_FOUND), "properties": _FOUND},
    {
        "id": "5f0c…",
        "model": "tiny+tiny",
        "image": {"id": "9c1a…", "width": 640, "height": 480},
        "detections": [
            {
                "class_id": 0,
                "label": "red circle",
                "score": 0.83,
                "text_score": 0.71,
                "box": [559.4, 209.7, 606.1, 267.2],
                "mask": {"format": "rle", "size": [480, 640], "counts": "…"},
                "mask_score": 0.93,
                "area": 1713,
            }
        ],
        "timings_ms": {"detect": 40.1, "encode": 38.0, "masks": 9.3, "total": 61.0},
        "passes": 1,
        "removed": {"negatives": 0, "nms": 1, "area": 0, "cap": 0},
        "warnings": [],
    },
    passes={"type": "integer", "description": "Captions that the detector read."},
    removed={"type": "object", "additionalProperties": {"type": "integer"}, "description": "Detections, by step."},
)


def _object(about: str | None = None, /, **properties: dict[str, Any]) -> dict[str, Any]:
    """An object that has all of `properties`, and may have more."""
    schema = {"type": "object", "required": sorted(properties), "properties": properties}
    return schema if about is None else {**schema, "description": about}


_NAME, _FRACTION = {"type": "string"}, {"type": "number", "minimum": 0, "maximum": 1}
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
_COUNT = {"type": "integer", "minimum": 1}

MODELS_ANSWER = _object(
    models={
        "type": "array",
        "items": _object(
            name={"type": "string", "description": "`detector+segmenter`, as requests give it in `model`."},
            aliases={"type": "array", "items": {"type": "string"}, "description": "Other names of the same."},
            default={"type": "boolean", "description": "Whether it answers requests without `model`."},
            detector=_object(
                name=_NAME,
                licence=_NAME,
                box_threshold=_FRACTION,
                text_threshold=_FRACTION,
                max_tokens={**_COUNT, "description": "Word pieces of a caption; a class may have 3 fewer."},
            ),
            segmenter=_object(name=_NAME, licence=_NAME),
            limits=_object(
                "Of a request, as the operator has set them; all others are in `x-limits`.",
                max_image_bytes=_COUNT,
                max_image_pixels=_COUNT,
                max_timeout_s=_POSITIVE,
                max_body_s=_POSITIVE,
            ),
        ),
    }
)


def status_answer(status: str) -> dict[str, Any]:
    """What a probe answers where all is well."""
    return _object(status={"const": status})
