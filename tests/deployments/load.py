"""Callers that ask without a pause: what they were told, and by which version of the models."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from deployments.client import Client, ClientError
from deployments.client.exchange import ClientStats
from pipeline.result import Result
from tests.deployments.test_serve import assert_same

TIMEOUT_S = 60.0


@dataclass(slots=True)
class Told:
    """What callers were told so far. `bare` ones try once; `ours` is this project's client, which may repeat.

    Attributes:
        versions: of the answers, by the name of what they equal; `None` for one that equals nothing.
        bare, ours: how often which status; of ours, 200 or what the client gave up with.
        stats: of our client, at the end.
    """

    versions: Counter[str | None] = field(default_factory=Counter)
    bare: Counter[object] = field(default_factory=Counter)
    ours: Counter[object] = field(default_factory=Counter)
    stats: ClientStats | None = None

    def __str__(self) -> str:
        return f"bare {dict(self.bare)}, ours {dict(self.ours)} with {self.stats}; answers {dict(self.versions)}"


@contextmanager
def asked_all_the_time(
    url: str, images: Sequence[bytes], prompt: str, references: Mapping[str, Sequence[Result]]
) -> Iterator[Told]:
    """A bare caller and one with our client ask for `images` in turn while the block lasts.

    Args:
        references: by version, what each image is to be answered with.
    """
    told, done, noting = Told(), threading.Event(), threading.Lock()

    def note(number: int, answer: Result) -> None:
        found = [name for name, results in references.items() if _equal(answer, results[number])]
        with noting:
            told.versions[found[0] if found else None] += 1

    def bare() -> None:
        with httpx.Client(base_url=url, trust_env=False, timeout=TIMEOUT_S) as client:
            for number in _in_turn(len(images), done):
                try:
                    answer = client.post("/v1/segment", files={"image": images[number]}, data={"prompt": prompt})
                except httpx.HTTPError as error:
                    told.bare[type(error).__name__] += 1
                    continue
                told.bare[answer.status_code] += 1
                if answer.status_code == 200:
                    note(number, Result.from_json(answer.json()))

    def ours() -> None:
        with Client(url, timeout_s=TIMEOUT_S) as client:
            for number in _in_turn(len(images), done):
                try:
                    note(number, client.segment(images[number], prompt))
                    told.ours[200] += 1
                except ClientError as error:
                    told.ours[type(error).__name__] += 1
            told.stats = client.stats

    with ThreadPoolExecutor(2) as pool:
        callers = [pool.submit(bare), pool.submit(ours)]
        try:
            yield told
        finally:
            done.set()
            for caller in callers:
                caller.result()


def _in_turn(count: int, done: threading.Event) -> Iterator[int]:
    for number in itertools.count():
        if done.is_set():
            return
        yield number % count


def _equal(answer: Result, reference: Result) -> bool:
    try:
        assert_same(answer, reference)
    except AssertionError:
        return False
    return True
