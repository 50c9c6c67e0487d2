"""Asking again for an image by its id: through the HTTP application, over stages that count their calls."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from deployments.image_ids import ImageIds
from deployments.retry import StageLostError
from tests.deployments.fakes import FakeStages, picture
from tests.deployments.service import Service, refusal


def by_id(image_id: Any) -> dict[str, Any]:
    return {"type": "id", "value": image_id}


def test_an_answer_names_its_image_and_the_name_stands_for_it() -> None:
    service = Service()
    first = service.json().json()
    assert re.fullmatch("[0-9a-f]{64}", first["image"]["id"])
    service.stages.calls.clear()
    again = service.json(image=by_id(first["image"]["id"]))
    assert again.status_code == 200
    assert again.json()["image"] == first["image"]
    assert again.json()["detections"] == first["detections"]
    assert service.stages.calls[0] == "recall"
    masks = service.masks(image=by_id(first["image"]["id"]), points=[[3, 3, 1]])
    assert masks.status_code == 200
    assert masks.json()["image"] == first["image"]


def test_the_name_is_of_the_content_and_of_the_secret_alone() -> None:
    one, other = ImageIds("a secret"), ImageIds("another secret")
    assert one.of(b"image", "") == ImageIds("a secret").of(b"image", "")
    names = {
        ids.of(image, tenant) for ids in (one, other) for image in (b"image", b"") for tenant in ("", "image", "x")
    }
    assert len(names) == 12
    assert Service().json().json()["image"]["id"] == Service().form().json()["image"]["id"]


@pytest.mark.parametrize("image_id", ["0" * 64, "0" * 63, "A" * 64, "../etc/passwd", "é", " "])
@pytest.mark.parametrize("path", ["/v1/segment", "/v1/masks"])
def test_an_unknown_name_is_not_found(image_id: str, path: str) -> None:
    service = Service()
    fields = {"prompt": "car"} if path == "/v1/segment" else {"points": [[1, 1, 1]]}
    response = service.request("POST", path, json={"image": by_id(image_id), **fields})
    assert refusal(response, 404, "image_not_cached")["param"] == "image.value"
    assert not {"detect", "encode", "decode"} & set(service.stages.calls)


def test_a_lost_replica_has_lost_its_images() -> None:
    service = Service(FakeStages(failures={"recall": [StageLostError()]}))
    image_id = service.json().json()["image"]["id"]
    refusal(service.json(image=by_id(image_id)), 404, "image_not_cached")
    assert service.json(image=by_id(image_id)).status_code == 200


def test_a_replica_that_does_not_answer_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that has to start first: its model would wake for an image that it cannot have."""

    async def gate(stage: str) -> None:
        if stage == "recall":
            await asyncio.Event().wait()

    monkeypatch.setattr("deployments.image_sources.RECALL_S", 0.05)
    service = Service(FakeStages(gate=gate))
    refusal(service.json(image=by_id("0" * 64)), 404, "image_not_cached")
    assert service.stages.cancelled == ["recall"]


def test_an_image_that_no_longer_fits_the_limits_is_refused_by_name_too() -> None:
    service = Service()
    image_id = service.json().json()["image"]["id"]
    for key in service.stages.kept:
        service.stages.kept[key] = picture((200, 200))
    refusal(service.json(image=by_id(image_id)), 413, "image_too_large")
