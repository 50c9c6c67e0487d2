"""What the tests of the service share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest


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
