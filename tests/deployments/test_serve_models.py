"""Several models in one running app, and images asked for again, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deployments.fakes import base64

pytestmark = pytest.mark.slow

PICTURE = (Path(__file__).parents[2] / "pipeline" / "tiny" / "demo.png").read_bytes()


def segment(client: httpx.Client, image: dict[str, str], **fields: Any) -> httpx.Response:
    return client.post("/v1/segment", json={"image": image, "prompt": "red circle, star", **fields})


def test_a_model_without_replicas_wakes_on_its_first_request(client: httpx.Client) -> None:
    """The same weights under another name, so the same answer."""
    cards = {card["name"]: card for card in client.get("/v1/models").json()["models"]}
    assert [(name, card["default"], card["aliases"]) for name, card in cards.items()] == [
        ("tiny+tiny", True, ["tiny"]),
        ("tiny+sleeper", False, []),
    ]
    assert client.get("/readyz").status_code == 200  # one that sleeps is no outage
    awake = segment(client, base64(PICTURE)).json()
    woken = segment(client, base64(PICTURE), model="tiny+sleeper")
    assert woken.status_code == 200, woken.text
    assert woken.json()["model"] == "tiny+sleeper"
    assert len(awake["detections"]) >= 2
    assert woken.json()["detections"] == awake["detections"]
    assert client.get("/readyz").status_code == 200
    refused = segment(client, base64(PICTURE), model="tiny+other")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "unknown_model")


def test_an_image_is_asked_for_again_by_its_id(client: httpx.Client) -> None:
    first = segment(client, base64(PICTURE)).json()
    by_id = {"type": "id", "value": first["image"]["id"]}
    again = segment(client, by_id).json()
    assert again["image"] == first["image"]
    assert again["detections"] == first["detections"]
    x0, y0, x1, y1 = first["detections"][0]["box"]
    points = [[(x0 + x1) / 2, (y0 + y1) / 2, 1]]
    answers = [
        client.post("/v1/masks", json={"image": image, "points": points}).json() for image in (by_id, base64(PICTURE))
    ]
    assert answers[0]["detections"] == answers[1]["detections"]
    unknown = segment(client, {"type": "id", "value": "0" * 64})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "image_not_cached")
