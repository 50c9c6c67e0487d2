"""The detector's deployment, without Ray: a long prompt in parts gives what it gives in process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from deployments.detector import DetectorDeployment
from deployments.refusals import raised
from deployments.stage_settings import DetectorSettings
from pipeline.bundle import resolve
from pipeline.errors import StageError
from pipeline.prompt import parse_classes
from pipeline.stages import Detections, DetectRequest
from pipeline.tiny import scenes
from tests.pipeline.judge import left_out, photo

NAMES = [f"{colour} {shape}" for colour in scenes.COLOUR_NAMES for shape in scenes.SHAPES]


@pytest.fixture(scope="module")
def deployment() -> Iterator[DetectorDeployment]:
    before = torch.get_num_threads()  # a replica sets its own
    yield DetectorDeployment(resolve("tiny", "detector"), DetectorSettings(max_batch_cost=2, threads=1))
    torch.set_num_threads(before)


@pytest.mark.parametrize("top_k", [None, 150])
def test_a_long_prompt_beside_a_short_one(deployment: DetectorDeployment, in_process: Any, top_k: int | None) -> None:
    """In process everything runs at once; in the deployment two captions at a time, some with another's."""
    image = photo(200, 270)
    long = DetectRequest(parse_classes(NAMES), (), 0.0, 0.0, top_k=top_k)
    short = DetectRequest(parse_classes("star, red"), (), 0.0, 0.0)

    async def both() -> list[Detections]:
        return [raised(one) for one in await asyncio.gather(*(deployment.detect(image, one) for one in (long, short)))]

    for found, request in zip(asyncio.run(both()), (long, short), strict=True):
        expected = in_process.detector.detect(image, request)
        assert found.passes == expected.passes == (5 if request is long else 1)
        assert left_out(found, expected, 0.02) <= 0.01 * len(expected)
        assert len(expected) >= 100


def test_a_late_request_is_refused(deployment: DetectorDeployment) -> None:
    request = DetectRequest(parse_classes(NAMES))
    refused = asyncio.run(deployment.detect(np.zeros((50, 60, 3), np.uint8), request, time.time() - 1))
    assert isinstance(refused, StageError)
    assert refused.code == "deadline_exceeded"
