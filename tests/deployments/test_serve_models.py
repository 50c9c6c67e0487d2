"""Several models in one running app, and images asked for again, over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("ray")

from deployments.app import BY_IMAGE
from deployments.ray_stages import RayStages
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


def test_the_live_document_is_the_committed_one(client: httpx.Client) -> None:
    committed = json.loads((Path(__file__).parents[2] / "openapi.json").read_text(encoding="utf-8"))
    assert client.get("/openapi.json").json() == committed


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


@pytest.fixture
def replicas(service: str) -> Iterator[RayStages]:
    """Stages whose image encoder has three replicas of two requests each; an embedding here is the replica's name."""
    from ray import serve

    class Encoder:  # within the fixture, so that it travels by value
        async def encode(self, image: Any, key: str, region: Any, deadline: Any) -> str:
            if image is not None:
                await image.arrive.remote()
            return str(serve.get_replica_context().replica_tag)

        async def recall(self, key: str) -> str:
            return str(serve.get_replica_context().replica_tag)

    deployment: Any = serve.deployment(Encoder, num_replicas=3, max_ongoing_requests=2, request_router_config=BY_IMAGE)
    deployment = deployment.options(ray_actor_options={"num_cpus": 0.05}, graceful_shutdown_timeout_s=0)
    handle = serve.run(deployment.bind(), name="encoders", route_prefix=None)
    try:
        yield RayStages(handle, handle, handle)
    finally:
        serve.delete("encoders")


def test_calls_of_one_image_go_to_one_replica(replicas: RayStages) -> None:
    async def ask() -> None:
        homes: dict[str, str] = {}
        for key in (f"{number:064x}" for number in range(24)):
            homes[key] = str(await replicas.encode(None, key, None, None))
            assert [str(await replicas.recall(key)) for _ in range(3)] == [homes[key]] * 3
        assert len(set(homes.values())) == 3

    asyncio.run(ask())


def test_a_hot_image_spreads_over_the_replicas(replicas: RayStages) -> None:
    """Six calls of one image, none of which ends before all are there: two of them fill a replica."""
    import ray

    actor: Any = ray.remote  # its type knows functions only

    class Meeting:
        def __init__(self) -> None:
            self.changed = asyncio.Condition()
            self.count = 0

        async def arrive(self) -> None:
            async with self.changed:
                self.count += 1
                self.changed.notify_all()
                await self.changed.wait_for(lambda: self.count == 6)

        async def arrived(self, count: int) -> None:
            async with self.changed:
                await self.changed.wait_for(lambda: self.count == count)

    async def ask() -> None:
        meeting = actor(num_cpus=0, max_concurrency=10)(Meeting).remote()
        calls = []
        async with asyncio.timeout(60):
            for number in range(6):
                calls.append(replicas.encode(meeting, "0" * 64, None, None))
                await meeting.arrived.remote(number + 1)
            homes = [str(await call) for call in calls]
        assert sorted(homes.count(home) for home in set(homes)) == [2, 2, 2]

    asyncio.run(ask())
