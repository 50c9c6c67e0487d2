"""What an image encoder keeps, and work that several ask for at once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.cache import OVERHEAD, Flights, ImageCache
from pipeline.errors import StageError
from pipeline.stages import Embedding, Region

REGIONS: list[Region | None] = [None, (0, 0, 2, 2), (1, 1, 3, 3)]


def embedding(size: int = 100) -> Embedding:
    return Embedding(np.zeros(size, np.uint8), (1, 1), (1, 1))


def entry_of(size: int) -> tuple[bytes, Embedding]:
    """Image and embedding that take `size` bytes in all."""
    return b"x", embedding(size - OVERHEAD - 1)


def test_image_and_embeddings_stand_under_one_key() -> None:
    cache = ImageCache(10_000)
    whole, part = embedding(), embedding()
    cache.keep("a", b"bytes", None, whole)
    cache.keep("a", b"bytes", (0, 0, 2, 2), part)
    assert cache.image("a") == b"bytes"
    assert cache.embedding("a", None) is whole
    assert cache.embedding("a", (0, 0, 2, 2)) is part
    assert cache.embedding("a", (0, 0, 3, 3)) is None
    assert cache.image("b") is None
    assert cache.embedding("b", None) is None


def test_who_was_asked_for_longest_ago_goes_first() -> None:
    cache = ImageCache(9_000)
    for key in "abc":
        cache.keep(key, *_with(None, 3_000))
    assert cache.image("a") is not None  # now `b` is the oldest
    cache.keep("d", *_with(None, 3_000))
    assert [key for key in "abcd" if cache.image(key) is not None] == ["a", "c", "d"]


def _with(region: Region | None, size: int) -> tuple[bytes, Region | None, Embedding]:
    image, found = entry_of(size)
    return image, region, found


@pytest.mark.parametrize(("size", "kept"), [(9_000, True), (9_001, False)])
def test_what_alone_exceeds_the_budget_is_not_kept(size: int, kept: bool) -> None:
    cache = ImageCache(9_000)
    cache.keep("large", *_with(None, size))
    assert (cache.image("large") is not None) == kept
    assert cache.size == (size if kept else 0)


def test_a_budget_of_nothing_keeps_nothing() -> None:
    cache = ImageCache(0)
    cache.keep("a", b"", None, embedding(0))
    assert cache.image("a") is None


def test_small_images_do_not_fill_the_memory() -> None:
    cache = ImageCache(2**20)
    for number in range(5_000):
        cache.keep(str(number), b"", None, embedding(0))
    assert sum(cache.image(str(number)) is not None for number in range(5_000)) <= 2**20 // OVERHEAD


operations = st.tuples(
    st.sampled_from(["keep", "read"]), st.sampled_from("abcd"), st.sampled_from(REGIONS), st.integers(1, 6_000)
)


@given(st.lists(operations, max_size=60))
def test_the_budget_holds_and_the_size_is_the_sum(steps: list[tuple[str, str, Region | None, int]]) -> None:
    """Beside a plain model: an ordered table of what was kept, from which the oldest entries are taken."""
    budget, image = 10_000, b"xxx"
    cache, model = ImageCache(budget), OrderedDict[str, OrderedDict[Region | None, int]]()

    def size(entry: OrderedDict[Region | None, int]) -> int:
        return OVERHEAD + len(image) + sum(entry.values())

    for step, key, region, count in steps:
        if step == "read":
            cache.embedding(key, region)
            if key in model:
                model.move_to_end(key)
            continue
        cache.keep(key, image, region, embedding(count))
        entry = model.setdefault(key, OrderedDict())
        model.move_to_end(key)
        entry[region] = count
        while len(entry) > 1 and size(entry) > budget:
            entry.popitem(last=False)
        while sum(map(size, model.values())) > budget:
            model.popitem(last=False)
        assert cache.size == sum(map(size, model.values())) <= budget
    for key in "abcd":
        assert (cache.image(key) is not None) == (key in model)
        for one in REGIONS:
            kept = cache.embedding(key, one)
            assert (None if kept is None else kept.features.nbytes) == (model[key].get(one) if key in model else None)


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
        asking = [asyncio.create_task(flights.join("a", work)) for _ in range(50)]
        other = asyncio.create_task(flights.join("b", work))
        await settle()
        work.gate.set()
        assert await asyncio.gather(*asking) == [1] * 50
        assert await other == 2
        assert await flights.join("a", work) == 3  # what is through is not joined

    asyncio.run(run())


def test_who_leaves_takes_nothing_from_the_others_and_the_last_ends_the_work() -> None:
    async def run() -> None:
        flights, work = Flights[int](), Work()
        one, two = (asyncio.create_task(flights.join("a", work)) for _ in range(2))
        await settle()
        one.cancel()
        await settle()
        assert (work.begun, work.cancelled) == (1, 0)
        two.cancel()
        await asyncio.wait({one, two})
        await settle()
        assert work.cancelled == 1
        again = asyncio.create_task(flights.join("a", work))
        await settle()
        work.gate.set()
        assert await again == 2

    asyncio.run(run())


def test_work_that_is_dropped_at_anothers_deadline_is_begun_again() -> None:
    async def run() -> None:
        flights, work = Flights[int](), Work()

        async def late() -> int:
            await work()
            raise StageError("deadline_exceeded", "too late")

        first = asyncio.create_task(flights.join("a", late))
        await settle()
        others = [asyncio.create_task(flights.join("a", work)) for _ in range(3)]
        await settle()
        assert work.begun == 1
        work.gate.set()
        outcome = (await asyncio.gather(first, return_exceptions=True))[0]
        assert isinstance(outcome, StageError)
        assert await asyncio.gather(*others) == [2, 2, 2]

    asyncio.run(run())


def test_a_failure_is_everybodys_and_nothing_stays_behind() -> None:
    async def fail() -> int:
        await asyncio.sleep(0)
        raise ValueError

    async def run() -> None:
        flights = Flights[int]()
        outcomes = await asyncio.gather(*(flights.join("a", fail) for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in outcomes] == [ValueError] * 3
        gate = Work()
        gate.gate.set()
        assert await flights.join("a", gate) == 1

    asyncio.run(run())
