"""Classes into captions: few of them, and the same ones every time."""

from __future__ import annotations

from collections.abc import Sequence


def pack(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Items into bins: in the order given, or fullest bins first where that needs fewer.

    The fewest bins are hard to find in general; for the few distinct lengths of class names, this mostly finds them.

    Args:
        sizes: of the items, from 1 to `room`.
        room: of a bin.

    Returns:
        for each bin the indices of its items, rising; bins by their first item.
    """
    in_order = _next_fit(sizes, room)
    if len(in_order) * room < sum(sizes) + room:  # the sum alone fills as many
        return in_order
    fullest = _fullest_first(sizes, room)
    return in_order if len(in_order) <= len(fullest) else sorted(sorted(members) for members in fullest)


def _next_fit(sizes: Sequence[int], room: int) -> list[list[int]]:
    bins: list[list[int]] = []
    free = 0
    for index, size in enumerate(sizes):
        if size > free:
            bins.append([])
            free = room
        bins[-1].append(index)
        free -= size
    return bins


def _fullest_first(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Bin by bin: the largest item left, and those that fill the rest best, larger ones preferred."""
    left: dict[int, list[int]] = {}
    for index in reversed(range(len(sizes))):
        left.setdefault(sizes[index], []).append(index)
    bins = []
    while left:
        largest = max(left)
        members = [left[largest].pop()]
        fill = _fill({size: len(items) for size, items in left.items()}, room - largest)
        members += [left[size].pop() for size in fill]
        bins.append(members)
        left = {size: items for size, items in left.items() if items}
    return bins


def _fill(counts: dict[int, int], room: int) -> list[int]:
    """Of `counts` items of each size, the sizes that sum to the most within `room`."""
    steps = []
    sums = 1  # bit n: some of the items sum to n
    for size in sorted(counts, reverse=True):
        for _ in range(min(counts[size], room // size)):
            steps.append((size, sums))
            sums |= (sums << size) & ((2 << room) - 1)
        if sums >> room:
            break
    total = sums.bit_length() - 1
    chosen = []
    for size, without in reversed(steps):
        if not without >> total & 1:
            chosen.append(size)
            total -= size
    return chosen
