"""What every test gets: fixed seeds, and no settings of the machine's owner."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:  # tests without torch stay without it
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TEXT2MASK_") or name.upper() in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def metrics_port() -> int:
    """Where the session's service shows its metrics, a second old at most."""
    from deployments.launch import free_port

    os.environ["RAY_metrics_report_interval_ms"] = "1000"  # noqa: SIM112  # Ray spells it so
    return free_port()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, metrics_port: int) -> Iterator[str]:
    """The base URL of one service for the whole session, with the embedded model; it is what `text2mask serve` starts.

    Beside it stands a copy of its segmenter under another name, with no replica until somebody asks for it. Of traces
    it records those that a caller has decided to sample, by `traceparent`.
    """
    pytest.importorskip("ray")
    from deployments.launch import free_port, running
    from tests.deployments.bundles import bundle_copy
    from tests.deployments.jobs.s3 import KEYS

    asleep = {"autoscaling": {"min_replicas": 0, "max_replicas": 1}}
    copy = bundle_copy("segmenter", "sleeper", tmp_path_factory.mktemp("bundles"))
    segmenters = [{"model": "tiny"}, {"model": str(copy), "image_encoder": asleep, "mask_decoder": asleep}]
    settings = {"model": "tiny", "segmenters": segmenters, "tracing": {"enabled": True, "sampling_ratio": 0}}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():  # for jobs: their workers inherit what Ray was started with
            patch.setenv(name, value)
        with running(settings, {"port": free_port()}, metrics_port=metrics_port) as url:
            yield url


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped, visibly, where there is no CUDA device."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
