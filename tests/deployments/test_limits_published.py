"""What `/openapi.json` and `/v1/models` publish of limits is what holds: schemas, ranges, admission, tokens."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deployments.admission_settings import AdmissionSettings
from deployments.http import body, schemas
from pipeline import mask_prompts, prompt, tiling
from pipeline.bundle import resolve
from pipeline.formats import low_res
from pipeline.prompt import Tokenizer
from pipeline.stages import Detections, DetectRequest
from tests.deployments.asgi_calls import Call
from tests.deployments.fakes import FakeStages, LocalCall
from tests.deployments.service import Service, refusal
from tests.deployments.test_limits import detect, document, service

LIMITS_PAGE = Path(__file__).parents[2] / "docs" / "limits.md"

# The numbers in the schemas are the same


def bounds(node: Any, path: str = "") -> Iterator[tuple[str, str, float]]:
    """`(path, keyword, number)` of all bounds in a schema."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("maxItems", "maxLength", "maximum") and isinstance(value, (int, float)):
                yield path, key, value
            else:
                inner = key in ("properties", "anyOf", "oneOf", "items", "contentSchema")
                yield from bounds(value, path if inner else f"{path}.{key}".strip("."))
    elif isinstance(node, list):
        for value in node:
            yield from bounds(value, path)


@pytest.mark.parametrize(
    ("model", "path", "keyword", "names"),
    [
        ("SegmentRequest", "prompt", "maxItems", {"classes"}),
        ("SegmentRequest", "prompt", "maxLength", {"prompt_characters", "class_characters"}),
        ("SegmentRequest", "negative_prompt", "maxItems", {"classes"}),
        ("SegmentRequest", "negative_prompt", "maxLength", {"prompt_characters", "class_characters"}),
        ("SegmentRequest", "max_detections", "maximum", {"detections"}),
        ("ClassItem", "text", "maxLength", {"class_characters"}),
        ("TileItem", "size", "maximum", {"tile_size"}),
        ("TileItem", "overlap", "maximum", {"tile_overlap"}),
        ("MasksRequest", "points", "maxItems", {"points", "instances"}),
        ("LowRes", "shape", "maximum", {"low_res_side"}),
        ("MasksRequest", "mask_input", "maxItems", {"low_res_instances"}),
    ],
)
def test_the_schemas_publish_the_same_numbers(model: str, path: str, keyword: str, names: set[str]) -> None:
    schemas, limits = document()["components"]["schemas"], document()["x-limits"]
    found = {number for at, key, number in bounds(schemas[model]) if (at, key) == (path, keyword)}
    assert found - {3} == {limits[name]["maximum"] for name in names}  # a point has 3 numbers
    form = model.replace("Request", "Form")
    assert {number for at, key, number in bounds(schemas[form]) if (at, key) == (path, keyword)} == found


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (
            tiling,
            {
                "MAX_SIZE": "tile_size",
                "MAX_TILES": "tiles",
                "MAX_CLASS_TILES": "class_tiles",
                "MAX_PIECES": "tile_masks",
            },
        ),
        (prompt, {"MAX_CLASSES": "classes", "MAX_CHARACTERS": "prompt_characters"}),
        (mask_prompts, {"MAX_INSTANCES": "instances", "MAX_POINTS": "points", "MAX_LOW_RES": "low_res_instances"}),
        (low_res, {"MAX_SIDE": "low_res_side"}),
        (
            body,
            {
                "MAX_PARTS": "form_parts",
                "MAX_MARKS": "json_values",
                "MAX_QUOTES": "json_quotes",
                "MAX_NAMES": "json_names",
                "MAX_DEPTH": "json_depth",
            },
        ),
        (schemas, {"MAX_CLASS_CHARACTERS": "class_characters", "MAX_DETECTIONS": "detections"}),
    ],
    ids=["tiling", "prompt", "mask_prompts", "low_res", "body", "schemas"],
)
def test_every_limit_of_the_code_is_published(module: ModuleType, names: dict[str, str]) -> None:
    source = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    stored = [node.id for node in ast.walk(source) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    assert {name for name in stored if name.startswith("MAX_")} == set(names)  # those that are not imported
    published, page = document()["x-limits"], LIMITS_PAGE.read_text(encoding="utf-8")
    for constant, name in names.items():
        assert published[name]["maximum"] == getattr(module, constant)
        assert f"{getattr(module, constant):,}" in page


def test_boxes_are_bounded_in_the_schema() -> None:
    (boxes, _) = document()["components"]["schemas"]["MasksRequest"]["properties"]["boxes"]["anyOf"]
    assert boxes["maxItems"] == document()["x-limits"]["instances"]["maximum"]


@pytest.mark.parametrize("name", ["box_threshold", "text_threshold", "nms_threshold", "negative_iou", "min_area"])
def test_fractions_end_at_zero_and_one(name: str) -> None:
    fields: dict[str, Any] = {}
    for taken in (0, 1):
        fields[name] = taken
        assert service().json(**fields).status_code == 200
    for over in (-1e-9, 1 + 1e-9):
        fields[name] = over
        assert refusal(service().json(**fields), 422, "invalid_value")["param"] == name


def test_the_least_tile_and_the_largest_overlap() -> None:
    for size, overlap, status in ((64, 16, 200), (63, 16, 422), (64, 15, 422), (100, 50, 200), (100, 51, 422)):
        assert service().json(tile={"size": size, "overlap": overlap}).status_code == status


def test_a_models_name_has_an_end() -> None:
    refusal(service().json(model="a" * 200), 404, "unknown_model")
    assert refusal(service().json(model="a" * 201), 422, "invalid_value")["param"] == "model"


# What one ingress replica takes on, and for how long


def test_the_published_places_are_those_that_there_are() -> None:
    admission = AdmissionSettings(max_requests=3)
    service = Service(admission=admission, max_body_s=2, max_timeout_s=7)
    limits = service.request("GET", "/openapi.json").json()["x-limits"]
    assert (limits["body_seconds"]["maximum"], limits["request_seconds"]["maximum"]) == (2, 7)
    assert limits["body_bytes_at_a_time"]["maximum"] == admission.max_body_bytes

    async def test() -> None:
        admitted = [Call(service.app) for _ in range(limits["requests_at_a_time"]["maximum"])]
        for call in admitted:
            await call.wants.wait()
        status, _, body = await Call(service.app).answer()
        assert (status, body["error"]["code"]) == (429, limits["requests_at_a_time"]["error"])
        for call in admitted:
            call.body(b"{}")
            assert (await call.answer())[0] == 422

    asyncio.run(test())


# The detector's token budget, which `/v1/models` publishes


class Tokenising(FakeStages):
    """Refuses as a detector of `tokenizer` does, before it looks at the image."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def detect(self, image: bytes, request: DetectRequest, deadline: float | None) -> LocalCall[Detections]:
        self._tokenizer.captions(request.negatives, "negative_prompt")
        self._tokenizer.captions(request.classes)
        return super().detect(image, request, deadline)


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_the_tokens_of_a_class(field: str) -> None:
    pytest.importorskip("tokenizers")
    bundle = resolve("tiny", "detector")
    assert bundle.vocabulary is not None
    stages = Tokenising(Tokenizer(bundle.vocabulary, bundle.max_tokens))
    most = bundle.max_tokens - 3  # [CLS] . [SEP]
    fields: dict[str, Any] = {field: ["car", " ".join(["red"] * most)]}
    assert detect(Service(stages), **fields).status_code == 200
    fields[field][1] += " red"
    assert refusal(detect(Service(stages), **fields), 422, "invalid_value")["param"] == f"{field}[1]"
