"""Every parser of the callers' bytes, by name: functions of bytes that raise only what is a finding."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz import body_targets as body
from tests.fuzz import file_targets as file
from tests.fuzz import header_targets as header
from tests.fuzz import pipeline_targets as pipeline
from tests.fuzz import url_targets as urls

Target = Callable[[bytes], None]

TARGETS: dict[str, Target] = {
    "image_header": pipeline.image_header,
    "image": pipeline.image,
    "rle": pipeline.rle,
    "mask_form": pipeline.mask_form,
    "low_res": pipeline.low_res,
    "prompt_text": pipeline.prompt_text,
    "prompt_json": pipeline.prompt_json,
    "mask_prompts": pipeline.mask_prompts,
    "tile": pipeline.tile,
    "json_text": body.json_text,
    "segment_json": body.segment_json,
    "masks_json": body.masks_json,
    "form": body.form,
    "segment_form": body.segment_form,
    "masks_form": body.masks_form,
    "url": urls.url,
    "host_rule": urls.host_rule,
    "address": urls.address,
    "fetch": urls.fetch,
    "image_id": header.image_id,
    "timeout_header": header.timeout_header,
    "headers": header.headers,
    "authorization": header.authorization,
    "path": header.path,
    "keys_file": file.keys_file,
    "config_file": file.config_file,
}

IS_JSON = frozenset(
    {"mask_form", "low_res", "prompt_json", "mask_prompts", "tile", "json_text", "segment_json", "masks_json"}
)
"""Those whose input is one JSON text: mutated value by value as well as byte by byte."""
