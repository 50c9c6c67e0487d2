"""The rest of the interface: boxes alone, pictures, the page about it, and the document that is committed."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from deployments.catalogue import catalogue
from deployments.settings import Settings
from pipeline.overlay import draw
from pipeline.result import Result
from tests.deployments.fakes import FakeStages, base64, picture
from tests.deployments.service import PICTURE, Service, refusal

COMMITTED = Path(__file__).parents[2] / "openapi.json"


def test_detect_gives_the_boxes_and_calls_no_segmenter() -> None:
    service = Service()
    body = {"image": base64(PICTURE), "prompt": "car, wheel"}
    answer = service.request("POST", "/v1/detect", json=body).json()
    assert not {"encode", "decode"} & set(service.stages.calls)
    whole = service.json().json()
    for found, same in zip(answer["detections"], whole["detections"], strict=True):
        assert found == same | {"mask": None, "mask_score": None, "area": None}
    form = service.request("POST", "/v1/detect", files={"image": PICTURE}, data={"prompt": "car, wheel"})
    assert form.json()["detections"] == answer["detections"]


@pytest.mark.parametrize("field", ["masks", "multimask", "points"])
def test_detect_knows_no_fields_of_masks(field: str) -> None:
    body = {"image": base64(PICTURE), "prompt": "car", field: "rle"}
    assert refusal(Service().request("POST", "/v1/detect", json=body), 422, "invalid_value")["param"] == field


@pytest.mark.parametrize(
    "accept",
    ["image/png", "image/png, */*", "application/json;q=0.5, image/png", "Image/PNG; q=0.2", "image/*, image/png;q=.9"],
)
def test_the_picture_is_what_the_answer_draws(accept: str) -> None:
    image = picture((64, 96))
    response = Service().form(image)
    result = Result.from_json(response.json())
    drawn = Service().request(
        "POST", "/v1/segment", files={"image": image}, data={"prompt": "car, wheel"}, headers={"accept": accept}
    )
    if accept.endswith("q=.9"):  # not a weight as RFC 9110 writes them
        assert drawn.headers["content-type"] == "application/json"
        return
    assert drawn.headers["content-type"] == "image/png"
    pixels = np.asarray(Image.open(BytesIO(drawn.content)))
    np.testing.assert_array_equal(pixels, draw(np.zeros((64, 96, 3), np.uint8), result))


@pytest.mark.parametrize(
    "accept", ["*/*", "", "image/jpeg", "image/png, application/json", "image/png;q=0", "text/html"]
)
def test_json_is_the_usual_answer(accept: str) -> None:
    assert Service().json(headers={"accept": accept}).headers["content-type"] == "application/json"


def test_a_refusal_is_json_whatever_was_asked_for() -> None:
    refusal(Service().json(headers={"accept": "image/png"}, prompt=""), 422, "invalid_value")
    service = Service(FakeStages())
    refusal(service.form(picture((200, 200))), 413, "image_too_large")


def test_one_picture_is_drawn_at_a_time_also_for_those_who_have_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six requests whose time ends while the first of their pictures is drawn: the others are never begun."""
    drawing, most, begun = threading.Semaphore(0), [0], [0]
    running = 0
    lock = threading.Lock()

    def slow(image: Any, result: Result) -> Any:
        nonlocal running
        with lock:
            running += 1
            begun[0] += 1
            most[0] = max(most[0], running)
        drawing.acquire(timeout=60)
        with lock:
            running -= 1
        return image

    monkeypatch.setattr("deployments.ingress.draw", slow)
    service = Service()
    headers = {"accept": "image/png", "x-request-timeout-seconds": "0.6"}

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(service.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            body = {"image": base64(PICTURE), "prompt": "car"}
            answers = await asyncio.gather(*(client.post("/v1/segment", json=body, headers=headers) for _ in range(6)))
            return [answer.status_code for answer in answers]

    try:
        assert asyncio.run(ask()) == [408] * 6
    finally:
        drawing.release(6)
    assert most == [1]
    assert begun == [1]


def test_the_page_needs_no_other_host() -> None:
    service = Service()
    page = service.request("GET", "/docs")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(sources) == 3
    assert "<script>" not in page.text
    for source in sources:
        assert source.startswith("./static/docs/")
        file = service.request("GET", source.removeprefix("."))
        assert file.status_code == 200
        assert file.headers["x-content-type-options"] == "nosniff"
        assert len(file.content) > 50
    assert b"SwaggerUIBundle" in service.request("GET", "/static/docs/swagger-ui-bundle.js").content
    refusal(service.request("GET", "/static/docs/../../deployments/keys.py"), 404, "not_found")


def document() -> dict[str, Any]:
    found: dict[str, Any] = Service().request("GET", "/openapi.json").json()
    return found


def test_the_committed_document_is_what_the_settings_default_to() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "deployments.http.openapi"], capture_output=True, check=True, text=True
    )
    assert printed.stdout == COMMITTED.read_text(encoding="utf-8"), "run `make openapi`, and read the difference"


def test_the_document_names_every_path_and_what_needs_a_key() -> None:
    paths = document()["paths"]
    assert set(paths) == {"/v1/segment", "/v1/detect", "/v1/masks", "/v1/models", "/healthz", "/readyz"}
    for path, operations in paths.items():
        (operation,) = operations.values()
        assert ({"key": []} in operation["security"]) == path.startswith("/v1/")


@pytest.mark.parametrize("form", ["SegmentForm", "DetectForm", "MasksForm"])
def test_the_document_has_text_for_what_a_form_takes_as_json(form: str) -> None:
    for field in document()["components"]["schemas"][form]["properties"].values():
        for branch in field.get("anyOf", [field]):
            assert branch["type"] in ("string", "number", "integer", "boolean")  # a part of a form is one text
    boxes = document()["components"]["schemas"]["MasksForm"]["properties"]["boxes"]
    assert boxes["contentMediaType"] == "application/json"
    assert boxes["contentSchema"]["items"]["maxItems"] == 4


def test_an_answer_is_what_its_schema_says() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schemas = document()["components"]["schemas"]
    service = Service()
    for name, answer in (
        ("SegmentAnswer", service.json()),
        ("SegmentAnswer", service.request("POST", "/v1/detect", files={"image": PICTURE}, data={"prompt": "car"})),
        ("MasksAnswer", service.masks(boxes=[[1, 1, 9, 9]], multimask=True, low_res=True)),
        ("Error", service.json(prompt="")),
        ("ModelsAnswer", service.request("GET", "/v1/models")),
        ("HealthzAnswer", service.request("GET", "/healthz")),
        ("ReadyzAnswer", service.request("GET", "/readyz")),
    ):
        schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
        jsonschema.validate(answer.json(), schema)


@pytest.mark.parametrize(
    ("path", "statuses"),
    [("/v1/models", {"200", "401", "429"}), ("/healthz", {"200"}), ("/readyz", {"200", "503"})],
)
def test_the_document_has_every_answer_of_what_takes_no_body(path: str, statuses: set[str]) -> None:
    (operation,) = document()["paths"][path].values()
    assert set(operation["responses"]) == statuses
    for answer in operation["responses"].values():
        assert "$ref" in answer["content"]["application/json"]["schema"]


def test_the_models_schema_names_all_that_a_catalogue_offers() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = document()["components"]["schemas"]["ModelsAnswer"]
    card = catalogue(Settings()).pairs[0].card
    one = schema["properties"]["models"]["items"]
    jsonschema.validate({"models": [{"name": "a", "aliases": [], "default": True, **card}]}, schema)
    assert set(one["properties"]) == {"name", "aliases", "default", *card}
    for part, fields in card.items():
        assert set(one["properties"][part]["properties"]) == set(fields)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/openapi.json", "/static/docs/start.js"])
def test_what_is_open_answers_head_as_get(path: str) -> None:
    service = Service()
    same = {"x-request-id": "same"}
    asked, probed = service.request("GET", path, headers=same), service.request("HEAD", path, headers=same)
    assert (probed.status_code, probed.headers) == (200, asked.headers)
    assert "head" not in document()["paths"].get(path, {})


def test_a_probe_by_head_tells_that_stages_are_missing() -> None:
    assert Service(ready=False).request("HEAD", "/readyz").status_code == 503


def test_operation_ids_are_unique() -> None:
    found = [operation["operationId"] for path in document()["paths"].values() for operation in path.values()]
    assert len(found) == len(set(found))
