"""The HTTP application over fake stages, called without a server."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from deployments.http.app import build
from deployments.http.errors import STATUS
from deployments.image_ids import ImageIds
from deployments.ingress import Ingress, ServedModel
from pipeline.image import ImageLimits
from tests.deployments.fakes import FakeStages, base64, picture

LIMITS = ImageLimits(max_bytes=20_000, max_pixels=10_000)
PICTURE = picture()
CARD = {
    "detector": {
        "name": "tiny",
        "licence": "Apache-2.0",
        "box_threshold": 0.3,
        "text_threshold": 0.2,
        "max_tokens": 64,
    },
    "segmenter": {"name": "tiny", "licence": "Apache-2.0"},
    "limits": {
        "max_image_bytes": LIMITS.max_bytes,
        "max_image_pixels": LIMITS.max_pixels,
        "max_timeout_s": 60.0,
        "max_body_s": 30.0,
    },
}


class Service:
    """The application over `stages`, called without a server."""

    def __init__(
        self,
        stages: FakeStages | None = None,
        *,
        ready: bool = True,
        max_timeout_s: float = 60,
        limits: ImageLimits = LIMITS,
        **layers: Any,
    ) -> None:
        self.stages = stages or FakeStages()

        async def is_ready() -> bool:
            return ready

        model = ServedModel("tiny+tiny", self.stages, ("tiny",), CARD)
        self.app = build(
            Ingress((model,), limits, is_ready, ImageIds("a secret")), max_timeout_s=max_timeout_s, **layers
        )

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    def json(self, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        body = {"image": base64(PICTURE), "prompt": "car, wheel", **fields}
        return self.request("POST", "/v1/segment", json=body, headers=headers)

    def form(self, image: bytes = PICTURE, **fields: str) -> httpx.Response:
        return self.request("POST", "/v1/segment", files={"image": image}, data={"prompt": "car, wheel", **fields})

    def masks(self, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        return self.request("POST", "/v1/masks", json={"image": base64(PICTURE), **fields}, headers=headers)

    def masks_form(self, image: bytes = PICTURE, /, **fields: str) -> httpx.Response:
        return self.request("POST", "/v1/masks", files={"image": image}, data=fields)

    def raw(
        self, body: bytes, content_type: str = "application/json", path: str = "/v1/segment", **headers: str
    ) -> httpx.Response:
        return self.request("POST", path, content=body, headers={"content-type": content_type, **headers})


def refusal(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error of `response`, which must be of the one format."""
    assert response.status_code == status, response.text
    assert STATUS[code] == status
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "param"}
    assert body["error"]["code"] == code
    assert body["error"]["message"]
    error: dict[str, Any] = body["error"]
    return error
