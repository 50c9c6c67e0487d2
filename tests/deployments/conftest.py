"""One Serve app for the whole session, with the embedded model, on a port of its own.

Beside it stands a copy of its segmenter under another name, with no replica until somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.deployments.bundles import bundle_copy


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of the running service; it is what `text2mask serve` starts."""
    pytest.importorskip("ray")
    from deployments.launch import free_port, running

    asleep = {"autoscaling": {"min_replicas": 0, "max_replicas": 1}}
    copy = bundle_copy("segmenter", "sleeper", tmp_path_factory.mktemp("bundles"))
    segmenters = [{"model": "tiny"}, {"model": str(copy), "image_encoder": asleep, "mask_decoder": asleep}]
    with running({"model": "tiny", "segmenters": segmenters}, {"port": free_port()}) as url:
        yield url


@pytest.fixture
def client(service: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service, trust_env=False, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def in_process() -> Any:
    """`TextToMask`, the reference that every other path must equal."""
    pytest.importorskip("torch")
    from pipeline.text_to_mask import TextToMask

    return TextToMask.from_pretrained("tiny")
