"""One Serve app for the whole session, with the embedded model, on a port of its own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest


@pytest.fixture(scope="session")
def service() -> Iterator[str]:
    """The base URL of the running service; it is what `text2mask serve` starts."""
    pytest.importorskip("ray")
    from deployments.launch import running

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with running({"model": "tiny"}, {"port": port}) as url:
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
