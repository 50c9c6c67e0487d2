"""One nginx, and one server behind it, for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.configs import front
from tests.configs.front import Upstream
from tests.deployments.service import Service


@pytest.fixture(scope="module")
def served() -> Iterator[Upstream]:
    with front.serving(Upstream(Service().app)) as upstream:
        yield upstream


@pytest.fixture
def upstream(served: Upstream) -> Upstream:
    served.requests.clear()
    served.bodies.clear()
    return served


@pytest.fixture(scope="module")
def port(served: Upstream) -> Iterator[int]:
    with front.nginx(served.port) as port:
        yield port


@pytest.fixture
def client(port: int) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=front.PATIENCE_S) as client:
        yield client
