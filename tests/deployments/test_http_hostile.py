"""Bodies made to take long: few faults are looked for, and the cheap checks come first. By counting, not by time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.http import fields as fields_module
from deployments.http.body import MAX_NAMES
from deployments.http.errors import ApiError
from deployments.http.fields import Fields
from deployments.http.mask_schemas import MasksForm, MasksRequest
from deployments.http.schemas import DetectForm, DetectRequest, SegmentForm, SegmentRequest
from tests.deployments.fakes import base64
from tests.deployments.service import PICTURE, Service, refusal

MOST_FAULTS = MAX_NAMES + 32  # one for each unknown name of an object, and for each field that exists
UNKNOWN = {f"u{number}": 0 for number in range(MAX_NAMES)}
POINT = ["x", "y", "label"]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Faults that were found, request by request."""
    counts: list[int] = []
    refusal_of = fields_module._refusal

    def count(error: ValidationError) -> ApiError:
        counts.append(error.error_count())
        return refusal_of(error)

    monkeypatch.setattr(fields_module, "_refusal", count)
    return counts


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/segment", {"prompt": "x", **dict(list(UNKNOWN.items())[:60])}, "u0"),
        ("/v1/segment", {"prompt": [UNKNOWN] * 200}, "prompt[0].text"),
        ("/v1/detect", {"prompt": ["a", *[1] * 1999]}, "prompt[1]"),
        ("/v1/detect", {"prompt": "a", "negative_prompt": [{"text": 1}] * 2000}, "negative_prompt[0].text"),
        ("/v1/detect", {"prompt": "a", "tile": UNKNOWN}, "tile.size"),
        ("/v1/masks", {"boxes": [[True] * 4] * 1000}, "boxes[0][0]"),
        ("/v1/masks", {"boxes": [[1, 2, 3]] * 1000}, "boxes[0]"),
        ("/v1/masks", {"points": [[[True] * 3] * 100] * 1000}, "points[0][0][0]"),
        ("/v1/masks", {"points": [POINT] * 100}, "points[0][0]"),
        ("/v1/masks", {"points": [[POINT]] * 1000}, "points[0][0][0]"),
        ("/v1/masks", {"mask_input": [UNKNOWN] * 64}, "mask_input[0].shape"),
        (
            "/v1/masks",
            {"mask_input": [{"shape": [True] * 2, "dtype": "float16"}]},
            "mask_input[0].shape[0]",
        ),
    ],
)
def test_few_faults_are_looked_for(path: str, body: dict[str, Any], param: str, counted: list[int]) -> None:
    service = Service()
    answer = service.raw(json.dumps({"image": base64(PICTURE), **body}).encode(), path=path)
    assert refusal(answer, 422, "invalid_value")["param"] == param
    (found,) = counted
    assert 1 <= found <= MOST_FAULTS


def lists_of(schema: Any) -> Iterator[dict[str, Any]]:
    """Every list in a schema of pydantic's core."""
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            yield schema
        for value in schema.values():
            yield from lists_of(value)
    elif isinstance(schema, (list, tuple)):
        for value in schema:
            yield from lists_of(value)


@pytest.mark.parametrize("model", [SegmentRequest, SegmentForm, DetectRequest, DetectForm, MasksRequest, MasksForm])
def test_every_list_ends_with_its_first_fault(model: type[Fields]) -> None:
    found = list(lists_of(model.__pydantic_core_schema__))
    assert len(found) >= 1
    assert all(one.get("fail_fast") is True and "max_length" in one for one in found)


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "x", **{f"k{number}": 0 for number in range(499_000)}},
        {"prompt": [{f"k{number}": 0 for number in range(240)}] * 2000},
        {"points": [[POINT] * 100] * 1000},
    ],
    ids=["names", "items", "strings"],
)
def test_megabytes_of_strings_are_not_parsed(body: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps(body, separators=(",", ":")).encode()
    monkeypatch.setattr("deployments.http.body.json", None)
    refusal(Service().raw(text), 413, "body_too_large")


def test_the_longest_lists_of_items_are_parsed() -> None:
    items = [{"text": f'"{number}" \\', "box_threshold": 0.25} for number in range(2000)]
    body = {"image": base64(PICTURE), "prompt": items, "negative_prompt": items}
    assert Service().request("POST", "/v1/detect", json=body).status_code == 200
    quotes = ['"' * 1999 + "\\"] * 100
    body = {"image": base64(PICTURE), "prompt": quotes, "negative_prompt": quotes}
    assert Service().request("POST", "/v1/detect", json=body).status_code == 200
