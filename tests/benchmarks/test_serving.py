"""The benchmark of serving: it compares answers before it compares times, and its loads time what they say."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from benchmarks.serving import answers, load, report
from benchmarks.serving.answers import AnswersDifferError, compare
from benchmarks.serving.load import Load
from benchmarks.serving.material import cases
from pipeline.masks import decode, encode
from pipeline.stages import RLE
from pipeline.text_to_mask import TextToMask

LIMITS = (0.25, 0.2)


@pytest.fixture(scope="module")
def official() -> list[dict[str, Any]]:
    """One image's answer, with masks."""
    case = cases()[0]
    found = TextToMask.from_pretrained("tiny").predict(case.jpeg, case.prompt).to_json()
    assert len(found["detections"]) >= 2
    return [found]


def test_equal_answers_in_any_order_are_equal(official: list[dict[str, Any]]) -> None:
    other = copy.deepcopy(official)
    other[0]["detections"].reverse()
    assert compare("x", official, other, LIMITS) == 0


def _shifted_box(one: dict[str, Any]) -> None:
    one["box"][0] += 2 * answers.BOX_PX


def _another_class(one: dict[str, Any]) -> None:
    one["label"] = "something else"


def _another_score(one: dict[str, Any]) -> None:
    one["score"] -= 2 * answers.SCORE


def _another_mask(one: dict[str, Any]) -> None:
    mask = decode(RLE(tuple(one["mask"]["size"]), one["mask"]["counts"])).copy()
    mask[: mask.shape[0] // 3] ^= True
    one["mask"]["counts"] = encode(mask).counts


@pytest.mark.parametrize("change", [_shifted_box, _another_class, _another_score, _another_mask])
def test_what_differs_is_not_compared(official: list[dict[str, Any]], change: Callable[[dict[str, Any]], None]) -> None:
    other = copy.deepcopy(official)
    change(other[0]["detections"][0])
    with pytest.raises(AnswersDifferError, match="arm x, image 0"):
        compare("x", official, other, LIMITS)


def test_a_detection_more_or_less_is_a_difference(official: list[dict[str, Any]]) -> None:
    fewer = copy.deepcopy(official)
    del fewer[0]["detections"][0]
    for left, right in ((official, fewer), (fewer, official)):
        with pytest.raises(AnswersDifferError, match="one side only"):
            compare("x", left, right, LIMITS)


def test_near_a_threshold_it_is_counted_and_few_are_let_through(official: list[dict[str, Any]]) -> None:
    near = copy.deepcopy(official)
    near[0]["detections"][0]["score"] = LIMITS[0] + answers.SCORE / 2
    fewer = copy.deepcopy(near)
    del fewer[0]["detections"][0]
    with pytest.raises(AnswersDifferError, match="near a threshold"):  # one of a few is more than 1 %
        compare("x", near, fewer, LIMITS)
    many = near + official * 100
    assert compare("x", many, fewer + official * 100, LIMITS) == 1


def test_open_load_times_from_the_intended_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread and a server that holds its first answer: the second, due at once, waited for it."""
    monkeypatch.setattr(load, "OPEN_THREADS", 1)
    clock = _Clock()
    monkeypatch.setattr(load, "time", clock)

    def ask(client: httpx.Client, number: int) -> httpx.Response:
        clock.now += 5.0 if number == 0 else 0.5
        return httpx.Response(200)

    found = load.opened("http://127.0.0.1:1", rate=1.0, seconds=4.0, seed=3, server_cpu=lambda: 0.0, ask=ask)
    assert len(found.took) >= 3
    assert found.took[0] == pytest.approx(5.0)
    assert found.took[1] > 2.0  # though the server took 0.5 s for it


class _Clock:
    """Time that passes only while somebody sleeps or is served."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_what_fails_is_no_answer() -> None:
    lock, found = threading.Lock(), Load()

    def refused(client: httpx.Client, number: int) -> httpx.Response:
        return httpx.Response(429)

    def broken(client: httpx.Client, number: int) -> httpx.Response:
        raise httpx.ReadTimeout("late")

    with load.client_of("http://127.0.0.1:1") as client:
        for ask in (refused, broken):
            load.note(found, lock, ask, client, 0, 0.0)
    assert (found.failed, found.took) == (2, [])


def test_files_are_new_to_a_cache_and_the_same_picture() -> None:
    from pipeline.image import ImageLimits
    from pipeline.image import decode as pixels

    one, other = cases()[0].unseen(), cases()[0].unseen()
    assert one != other
    assert (pixels(one, ImageLimits()) == pixels(other, ImageLimits())).all()


def test_a_figure_has_its_range() -> None:
    assert report.spread([0.002, 0.001, 0.009], 1000) == "2 (1-9)"
    assert report.spread([0.002], 1000, 1) == "2.0"
