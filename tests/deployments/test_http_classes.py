"""What the text fields of a request become: modes, raw mode, per-class thresholds."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.http.orders import order_of
from deployments.http.schemas import SegmentFields
from tests.deployments.service import Service, refusal


def test_raw_mode_asks_for_the_best_pairs_and_skips_nms() -> None:
    service = Service()
    assert service.json(raw=True, max_detections=300, nms="agnostic", box_threshold=0.9).status_code == 200
    assert service.form(raw="true", max_detections="7").status_code == 200
    assert service.form(raw="false").status_code == 200
    assert [request.top_k for request in service.stages.requests] == [300, 7, None]
    fields: Any = {"prompt": "car", "max_detections": 300, "max_area": 0.5, "nms": "agnostic"}
    raw, usual = (order_of(SegmentFields(**fields, raw=raw)).selection for raw in (True, False))
    assert (raw.nms, raw.max_area, raw.max_detections) == ("off", 0.5, 300)
    assert (usual.nms, usual.max_detections) == ("agnostic", 300)


def test_raw_mode_takes_no_negatives() -> None:
    service = Service()
    assert refusal(service.json(raw=True, negative_prompt="dog"), 422, "invalid_value")["param"] == "raw"
    assert service.stages.calls == []


@pytest.mark.parametrize("raw", [1, "true", None])
def test_raw_is_a_boolean(raw: object) -> None:
    assert refusal(Service().json(raw=raw), 422, "invalid_value")["param"] == "raw"


def test_openapi_says_what_raw_mode_leaves_out() -> None:
    schemas = Service().request("GET", "/openapi.json").json()["components"]["schemas"]
    for name in ("SegmentRequest", "SegmentForm"):
        said = schemas[name]["properties"]["raw"]["description"]
        assert all(word in said for word in ("Thresholds", "nms", "max_detections", "negative_prompt"))


def test_a_phrase_is_one_class() -> None:
    service = Service()
    answer = service.json(prompt="a dog, not. the cat; here", mode="phrase").json()
    assert [found["label"] for found in answer["detections"]] == ["a dog, not. the cat; here"]
    service.json(prompt=["a, b", "c"], mode="phrase", negative_prompt="d, e")
    request = service.stages.requests[-1]
    assert [one.label for one in (*request.classes, *request.negatives)] == ["a, b", "c", "d, e"]


def test_negatives_may_have_thresholds_of_their_own() -> None:
    service = Service()
    service.json(negative_prompt=[{"text": "dog", "box_threshold": 0.6}, "cat"])
    assert [one.box_threshold for one in service.stages.requests[-1].negatives] == [0.6, None]
