"""`fused`: one deployment beside the session's service, over HTTP; the answers are those of one process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.mask_result import MaskResult
from pipeline.result import Result
from tests.deployments.test_serve import assert_same, assert_same_masks

pytestmark = pytest.mark.slow
PICTURE = (Path(__file__).parents[2] / "pipeline" / "tiny" / "demo.png").read_bytes()


@pytest.fixture(scope="module")
def fused(service: str) -> Iterator[httpx.Client]:
    from ray import serve

    from deployments.app import build_app

    serve.run(build_app({"model": "tiny", "fused": True, "auth.mode": "none"}), name="fused", route_prefix="/fused")
    with httpx.Client(base_url=f"{service}/fused", trust_env=False, timeout=120) as client:
        yield client
    serve.delete("fused")


def segment(client: httpx.Client, prompt: str) -> Any:
    response = client.post("/v1/segment", files={"image": PICTURE}, data={"prompt": prompt})
    assert response.status_code == 200, response.text
    return response.json()


def test_it_is_one_deployment_and_ready(fused: httpx.Client) -> None:
    from ray import serve

    assert set(serve.status().applications["fused"].deployments) == {"ingress"}
    assert fused.get("/readyz").status_code == 200


def test_the_answers_at_the_same_time_are_those_of_one_process(fused: httpx.Client, in_process: Any) -> None:
    prompts = ["red circle, star", "blue square", "ring, cross", "star"] * 3
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda prompt: segment(fused, prompt), prompts))
    for prompt, answer in zip(prompts, answers, strict=True):
        assert_same(Result.from_json(answer), in_process.predict(PICTURE, prompt))


def test_an_image_is_known_by_its_id_and_a_click_needs_no_encoding(fused: httpx.Client, in_process: Any) -> None:
    first = segment(fused, "red circle")
    image = {"type": "id", "value": first["image"]["id"]}
    again = fused.post("/v1/segment", json={"image": image, "prompt": "star"}).json()
    assert_same(Result.from_json(again), in_process.predict(PICTURE, "star"))
    clicked = fused.post("/v1/masks", json={"image": image, "points": [[580, 240, 1]]})
    assert clicked.status_code == 200
    assert_same_masks(MaskResult.from_json(clicked.json()), in_process.masks(PICTURE, points=[[580, 240, 1]]))
    unknown = fused.post("/v1/masks", json={"image": {"type": "id", "value": "0" * 64}, "points": [[1, 1, 1]]})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "image_not_cached")


def test_refusals_are_those_of_the_stages(fused: httpx.Client) -> None:
    response = fused.post("/v1/segment", files={"image": PICTURE[:2000]}, data={"prompt": "star"})
    assert (response.status_code, response.json()["error"]["code"]) == (422, "image_undecodable")
