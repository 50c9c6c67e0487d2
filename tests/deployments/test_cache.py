"""What an image encoder keeps, and work that several ask for at once."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.cache import Flights, ImageCache
from pipeline.stages import Embedding, Region

REGIONS: list[Region | None] = [None, (0, 0, 2, 2), (1, 1, 3, 3)]


def embedding(size: int = 100) -> Embedding:
    return Embedding(np.zeros(size, np.uint8), (1, 1), (1, 1))


def test_image_and_embeddings_stand_under_one_key() -> None:
    cache = ImageCache(1000)
    cache.keep_image("a", b"bytes")
    whole, part = embedding(), embedding()
    cache.keep_embedding("a", None, whole)
    cache.keep_embedding("a", (0, 0, 2, 2), part)
    assert cache.image("a") == b"bytes"
    assert cache.embedding("a", None) is whole
    assert cache.embedding("a", (0, 0, 2, 2)) is part
    assert cache.embedding("a", (0, 0, 3, 3)) is None
    assert cache.image("b") is None
    assert cache.embedding("b", None) is None
    cache.keep_embedding("b", None, embedding())  # its image went meanwhile: nothing is kept without
    assert cache.embedding("b", None) is None


def test_who_was_asked_for_longest_ago_goes_first() -> None:
    cache = ImageCache(30)
    for key in "abc":
        cache.keep_image(key, bytes(10))
    assert cache.image("a") is not None  # now `b` is the oldest
    cache.keep_image("d", bytes(10))
    assert [key for key in "abcd" if cache.image(key) is not None] == ["a", "c", "d"]


@pytest.mark.parametrize(("size", "kept"), [(30, True), (31, False)])
def test_what_alone_exceeds_the_budget_is_not_kept(size: int, kept: bool) -> None:
    cache = ImageCache(30)
    cache.keep_image("small", bytes(30 - size % 30 - (size == 30) * 30))
    cache.keep_image("large", bytes(size))
    assert (cache.image("large") is not None) == kept
    assert cache.size <= 30


def test_a_budget_of_nothing_keeps_nothing() -> None:
    cache = ImageCache(0)
    cache.keep_image("a", b"x")
    assert cache.image("a") is None


operations = st.tuples(
    st.sampled_from(["image", "embedding", "read"]),
    st.sampled_from("abcd"),
    st.sampled_from(REGIONS),
    st.integers(1, 60),
)


@given(st.lists(operations, max_size=60))
def test_the_budget_holds_and_the_size_is_the_sum(steps: list[tuple[str, str, Region | None, int]]) -> None:
    """Beside a plain model: an ordered table of what was kept, from which the oldest entries are taken."""
    cache, model = ImageCache(100), OrderedDict[str, dict[str | Region | None, int]]()
    for step, key, region, size in steps:
        known = key in model
        if known:
            model.move_to_end(key)
        if step == "image" and not known:
            cache.keep_image(key, bytes(size))
            model[key] = {"image": size}
        elif step == "image":
            cache.keep_image(key, bytes(size))
        elif step == "embedding":
            cache.keep_embedding(key, region, embedding(size))
            if known and region not in model[key]:
                while len(model[key]) > 1 and sum(model[key].values()) + size > 100:
                    del model[key][next(name for name in model[key] if name != "image")]
                if sum(model[key].values()) + size <= 100:
                    model[key][region] = size
        else:
            cache.embedding(key, region)
        while sum(sum(entry.values()) for entry in model.values()) > 100:
            model.popitem(last=False)
        assert cache.size == sum(sum(entry.values()) for entry in model.values()) <= 100
    for key in "abcd":
        image = cache.image(key)
        assert (None if image is None else len(image)) == model.get(key, {}).get("image")
        for one in REGIONS:
            kept = cache.embedding(key, one)
            assert (None if kept is None else kept.features.nbytes) == model.get(key, {}).get(one)


# ---- flights


class Work:
    """Coroutines that end when they are told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.gate = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        mine = self.begun
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return mine


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_many_ask_for_is_done_once() -> None:
    async def run() -> None:
        flights, work = Flights[int](), Work()
        asking = [asyncio.create_task(flights.join("a", None, work)) for _ in range(50)]
        other = asyncio.create_task(flights.join("b", None, work))
        await settle()
        work.gate.set()
        assert await asyncio.gather(*asking) == [1] * 50
        assert await other == 2
        assert await flights.join("a", None, work) == 3  # what is through is not joined

    asyncio.run(run())


def test_who_leaves_takes_nothing_from_the_others_and_the_last_ends_the_work() -> None:
    async def run() -> None:
        flights, work = Flights[int](), Work()
        one, two = (asyncio.create_task(flights.join("a", None, work)) for _ in range(2))
        await settle()
        one.cancel()
        await settle()
        assert (work.begun, work.cancelled) == (1, 0)
        two.cancel()
        await asyncio.wait({one, two})
        await settle()
        assert work.cancelled == 1
        again = asyncio.create_task(flights.join("a", None, work))
        await settle()
        work.gate.set()
        assert await again == 2

    asyncio.run(run())


def test_work_that_may_be_dropped_earlier_is_not_joined() -> None:
    async def run() -> None:
        flights, work = Flights[int](), Work()
        deadlines = [5.0, 9.0, 7.0, None, math.inf]
        asking = [asyncio.create_task(flights.join("a", deadline, work)) for deadline in deadlines]
        await settle()
        work.gate.set()
        assert await asyncio.gather(*asking) == [1, 2, 2, 3, 3]

    asyncio.run(run())


def test_a_failure_is_everybodys_and_nothing_stays_behind() -> None:
    async def fail() -> int:
        await asyncio.sleep(0)
        raise ValueError

    async def run() -> None:
        flights = Flights[int]()
        outcomes = await asyncio.gather(*(flights.join("a", None, fail) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in outcomes] == [ValueError] * 3
        gate = Work()
        gate.gate.set()
        assert await flights.join("a", None, gate) == 1

    asyncio.run(run())
