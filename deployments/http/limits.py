"""The limits of this service as `/openapi.json` publishes them, in `x-limits`.

What a schema can say (`maxItems`, `maximum`, `maxLength`) stands there too; bytes, pixels, depth and time have no place
in one. Each number is the largest that is taken.
"""

from __future__ import annotations

from typing import Any

from deployments.admission_settings import AdmissionSettings
from deployments.http.body import MAX_DEPTH, MAX_MARKS, MAX_NAMES, MAX_PARTS, MAX_QUOTES
from deployments.http.mask_schemas import MasksFields
from deployments.http.reading import base64_length
from deployments.http.schemas import MAX_CLASS_CHARACTERS, MAX_DETECTIONS, SegmentFields
from pipeline.formats.low_res import MAX_SIDE
from pipeline.image import ImageLimits
from pipeline.mask_prompts import MAX_INSTANCES, MAX_LOW_RES, MAX_POINTS
from pipeline.prompt import MAX_CHARACTERS, MAX_CLASSES
from pipeline.tiling import MAX_CLASS_TILES, MAX_PIECES, MAX_SIZE, MAX_TILES


def published(
    images: ImageLimits, *, max_timeout_s: float, max_body_s: float, admission: AdmissionSettings | None
) -> dict[str, Any]:
    """By name: the maximum, its unit, and the error's code; None where what is over is left out of the answer."""
    longest_image = base64_length(images.max_bytes)
    limits: dict[str, tuple[float, str, str | None]] = {
        "image_bytes": (images.max_bytes, "bytes of the encoded file", "image_too_large"),
        "image_pixels": (images.max_pixels, "height x width, by the file's header", "image_too_large"),
        "image_side": (images.max_side, "pixels of the longer side", "image_too_large"),
        "segment_json_bytes": (longest_image + SegmentFields.room, "bytes of the body", "body_too_large"),
        "segment_form_bytes": (images.max_bytes + SegmentFields.room, "bytes of the body", "body_too_large"),
        "masks_json_bytes": (longest_image + MasksFields.room, "bytes of the body", "body_too_large"),
        "masks_form_bytes": (images.max_bytes + MasksFields.room, "bytes of the body", "body_too_large"),
        "json_depth": (MAX_DEPTH, "lists and objects within one another", "malformed_request"),
        "json_values": (MAX_MARKS, "commas and opening brackets, also inside strings", "body_too_large"),
        "json_quotes": (MAX_QUOTES, "double quotes, less those after a backslash", "body_too_large"),
        "json_names": (MAX_NAMES, "names of one object", "malformed_request"),
        "form_parts": (MAX_PARTS, "parts", "malformed_request"),
        "classes": (MAX_CLASSES, "items of one prompt", "invalid_value"),
        "class_characters": (MAX_CLASS_CHARACTERS, "characters of an item of a list", "invalid_value"),
        "prompt_characters": (MAX_CHARACTERS, "characters of one prompt", "invalid_value"),
        "detections": (MAX_DETECTIONS, "max_detections", "invalid_value"),
        "tile_size": (MAX_SIZE, "pixels", "invalid_value"),
        "tile_overlap": (MAX_SIZE // 2, "pixels; at most half of the size", "invalid_value"),
        "tiles": (MAX_TILES, "tiles of one image", "invalid_value"),
        "class_tiles": (MAX_CLASS_TILES, "classes of both prompts x tiles", "invalid_value"),
        "tile_masks": (MAX_PIECES, "masks before merging: the best; `removed.cap` counts the others", None),
        "instances": (MAX_INSTANCES, "boxes, or lists of points", "invalid_value"),
        "points": (MAX_POINTS, "points of one instance", "invalid_value"),
        "low_res_instances": (MAX_LOW_RES, "instances with low_res or mask_input", "invalid_value"),
        "low_res_side": (MAX_SIDE, "values", "invalid_value"),
        "body_seconds": (max_body_s, "seconds until the whole body is there", "deadline_exceeded"),
        "request_seconds": (max_timeout_s, "seconds; a longer x-request-timeout-seconds is cut", "deadline_exceeded"),
    }
    if admission is not None:
        limits |= {
            "requests_at_a_time": (admission.max_requests, "requests in each ingress replica", "overloaded"),
            "body_bytes_at_a_time": (admission.max_body_bytes, "bytes in each ingress replica", "overloaded"),
        }
    return {name: {"maximum": most, "unit": unit, "error": code} for name, (most, unit, code) in limits.items()}
