"""Few captions: against the fewest that exist, found by trying everything, and against a bound."""

from __future__ import annotations

import random
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.packing import pack

repeatable = settings(derandomize=True, deadline=None, max_examples=300)

ROOM = 20
sizes = st.lists(st.integers(1, ROOM), max_size=60)


def greedy(given_sizes: list[int], room: int) -> list[list[int]]:
    """In order, a new bin whenever the next item does not fit."""
    bins: list[list[int]] = []
    for index, size in enumerate(given_sizes):
        if bins and sum(given_sizes[i] for i in bins[-1]) + size <= room:
            bins[-1].append(index)
        else:
            bins.append([index])
    return bins


@cache
def fewest(items: tuple[int, ...], free: tuple[int, ...] = ()) -> int:
    """The fewest bins for `items`, besides those open with so much `free`."""
    if not items:
        return 0
    first, rest = items[0], items[1:]
    tries = [
        fewest(rest, tuple(sorted((*free[:i], left - first, *free[i + 1 :]))))
        for i, left in enumerate(free)
        if left >= first
    ]
    return min([1 + fewest(rest, tuple(sorted((*free, ROOM - first)))), *tries])


@repeatable
@given(sizes)
@example([11, 11, 9, 9])  # in order three bins, two are enough
def test_every_item_once_and_no_bin_too_full(items: list[int]) -> None:
    bins = pack(items, ROOM)
    assert sorted(i for members in bins for i in members) == list(range(len(items)))
    assert all(sum(items[i] for i in members) <= ROOM for members in bins)
    assert all(members == sorted(members) for members in bins)
    assert bins == sorted(bins)
    assert pack(items, ROOM) == bins
    in_order = greedy(items, ROOM)
    assert len(bins) <= len(in_order)
    if len(bins) == len(in_order):
        assert bins == in_order  # the caller's order, where that needs no more


def test_the_fewest_of_small_lists() -> None:
    draw = random.Random(0)
    lists = [[draw.randint(1, highest) for _ in range(draw.randint(1, 9))] for highest in (8, 20) for _ in range(300)]
    spare = [len(pack(items, ROOM)) - fewest(tuple(sorted(items, reverse=True))) for items in lists]
    assert min(spare) == 0
    assert sum(spare) <= 0.01 * len(lists)
    assert sum(len(greedy(items, ROOM)) > len(pack(items, ROOM)) for items in lists) > 50


@pytest.mark.parametrize("room", [46, 254])
def test_long_class_lists_need_the_fewest_captions(room: int) -> None:
    """2,000 texts of one to a few words, and some sentences: as few captions as their tokens fill."""
    draw = random.Random(0)
    items = [draw.choice([2, 2, 3, 3, 3, 4, 5, 6]) for _ in range(1970)] + [draw.randint(20, 46) for _ in range(30)]
    draw.shuffle(items)
    assert len(pack(items, room)) == -(-sum(items) // room) < len(greedy(items, room))


def test_nothing() -> None:
    assert pack([], ROOM) == []
