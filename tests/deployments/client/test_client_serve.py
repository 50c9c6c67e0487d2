"""The client against the real service."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from deployments.client import Client
from tests.deployments.test_serve import PROMPT, SCENE, Replica, assert_same, assert_same_masks, encoded, scene, until

pytestmark = pytest.mark.slow


@pytest.fixture
def asker(service: str) -> Iterator[Client]:
    with Client(service, timeout_s=120) as client:
        yield client


def test_results_are_the_in_process_ones_and_the_image_is_sent_once(asker: Client, in_process: Any) -> None:
    for prompt in (PROMPT, ["red circle", "star"]):
        assert_same(asker.segment(SCENE, prompt), in_process.predict(SCENE, prompt))
    boxes = [[20, 30, 140, 150.5]]
    assert_same_masks(asker.masks(SCENE, boxes=boxes), in_process.masks(SCENE, boxes=boxes))
    assert asker.overlay(SCENE, PROMPT).startswith(b"\x89PNG")
    stats = asker.stats
    assert (stats.attempts, stats.reused_ids, stats.resent) == (4, 3, 0)


def test_a_picture_in_memory_gives_the_in_process_answer(asker: Client, in_process: Any) -> None:
    picture = scene(300, 200)
    picture.getexif()[0x0112] = 8
    assert_same(asker.segment(picture, PROMPT), in_process.predict(picture, PROMPT))


def test_many_pictures_come_in_order_or_as_they_are_ready(asker: Client, in_process: Any) -> None:
    pictures = [encoded(scene(200 + 10 * number, 160)) for number in range(4)]
    images = [*pictures[:2], b"no picture", *pictures[2:]]
    ordered = list(asker.segment_many(images, PROMPT, concurrency=3))
    assert [answer.index for answer in ordered] == list(range(5))
    assert [getattr(answer.error, "status", None) for answer in ordered] == [None, None, 415, None, None]
    for answer in ordered[:2]:
        assert_same(answer.unwrap(), in_process.predict(images[answer.index], PROMPT))
    unordered = sorted(asker.segment_many(images, PROMPT, concurrency=3, ordered=False), key=lambda one: one.index)
    for one, other in zip(unordered, ordered, strict=True):
        assert (one.index, one.error is None) == (other.index, other.error is None)
        if one.result is not None:
            assert_same(one.result, other.unwrap())


def test_an_ingress_killed_under_requests_is_not_seen(asker: Client, in_process: Any) -> None:
    """What is in flight inside a dead ingress fails in Serve: the client asks again."""
    images = [encoded(scene(1200, 900 + number), "PNG", compress_level=1) for number in range(2)]
    replica = Replica("ingress")
    with ThreadPoolExecutor(2) as threads:
        requests = [threads.submit(asker.segment, image, PROMPT) for image in images]
        until(lambda: replica.ongoing() > 0)
        os.kill(replica.pid, signal.SIGKILL)
        assert not all(request.done() for request in requests), "all were through before the replica was killed"
        for image, request in zip(images, requests, strict=True):
            assert_same(request.result(100), in_process.predict(image, PROMPT))
    assert asker.stats.retries >= 1
    until(asker.ready)
