"""What the tests of the service share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from deployments.logs import LOGGER


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    """pytest's own, which also hears our logger: once Serve is loaded, its parent passes nothing on."""
    logger = logging.getLogger(LOGGER)
    monkeypatch.setattr(logger, "propagate", False)  # or, without Serve, everything is heard twice
    caplog.set_level(logging.DEBUG, logger=LOGGER)  # whatever the launcher has told its parent
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


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


@pytest.fixture(scope="session")
def ray_address(service: str) -> str:
    """Of the session's Ray, on which the service runs, too."""
    import ray

    return str(ray.get_runtime_context().gcs_address)
