"""What waits for a model: whose turn is next, and what goes into its batch. No threads, no event loop.

Whose turn it is follows the deadlines, with ageing. An item is *due* at its deadline, or `PATIENCE_S` after it came
where that is earlier; what is due first goes first, over all keys, and among equals what came first. So an item is
overtaken only by later ones of an earlier deadline, and not for ever: once it is due, nothing that comes goes first.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from deployments.forward_times import ForwardTimes

Item = TypeVar("Item")
Raw = TypeVar("Raw")

PATIENCE_S = 10.0
"""How long later items of an earlier deadline may overtake one, in seconds: long beside a batch, short beside the time
that a caller gives who does not hurry."""


@dataclass(slots=True, eq=False)
class Waiting(Generic[Item, Raw]):
    """An item, and the caller who waits for its outcome.

    Attributes:
        cost: its share of the most that a batch may cost.
        deadline: Unix time in seconds after which it is not computed, or None.
        since: when it came, `time.perf_counter()`.
        trace: that it belongs to.
    """

    item: Item
    cost: int
    deadline: float | None
    future: asyncio.Future[Raw]
    since: float
    trace: Any


Entry = tuple[float, int, Waiting[Item, Raw]]
Batch = list[Waiting[Item, Raw]]


class BatchQueue(Generic[Item, Raw]):
    """Items by key, in the order in which they are due.

    A batch is of the key whose first item is due first, and takes that key's items in their order: none is passed over
    because a later one would still fit. For items of a key with equal deadlines, or none, that is the order in which
    they came. An item that costs more than `max_cost` is a batch of its own.

    Left out of a batch: what its caller gave up; what is late; and what would be late at the end of the batch even if
    that were as quick as the quickest such batch of late (`ForwardTimes`), as its place is better used. Where nothing
    else waits for such places, as all of the key's items fit, it runs alone and the others after it.

    Args:
        max_size: most items in a batch. max_cost: most summed cost, None for no such limit.
        clock: Unix time in seconds, against which deadlines are read.
        left_out: told of what is left out, with the reason, `cancelled` or `deadline`.
    """

    def __init__(
        self,
        max_size: int,
        max_cost: int | None,
        clock: Callable[[], float],
        left_out: Callable[[Waiting[Item, Raw], str], None],
    ) -> None:
        self.limit(max_size, max_cost)
        self._clock = clock
        self._left_out = left_out
        self._heaps: dict[Hashable, list[Entry[Item, Raw]]] = {}  # none of them empty
        self._numbers = itertools.count()
        self.times = ForwardTimes()

    def limit(self, max_size: int, max_cost: int | None) -> None:
        """Both limits, from the next batch on. What waits stays, in its order."""
        if max_size < 1 or (max_cost is not None and max_cost < 1):
            raise ValueError("max_batch_size and max_batch_cost must be at least 1")
        self._max_size, self._max_cost = max_size, max_cost

    def add(self, key: Hashable, waiting: Waiting[Item, Raw], hurried: bool = True) -> None:
        """`hurried`: False for one whose deadline does not bring it forward."""
        due = self._clock() + PATIENCE_S
        if hurried and waiting.deadline is not None:
            due = min(waiting.deadline, due)
        heapq.heappush(self._heaps.setdefault(key, []), (due, next(self._numbers), waiting))

    def next_batch(self) -> tuple[Hashable, Batch[Item, Raw]] | None:
        """A key and its batch, taken out; None when nothing waits."""
        while self._heaps:
            key = min(self._heaps, key=lambda one: self._heaps[one][0][:2])
            heap = self._heaps[key]
            entries = [] if self._pruned(heap) else self._filled(heap)
            if len(entries) > 1 and not heap and self._only_alone(key, entries):
                for entry in entries[1:]:
                    heapq.heappush(heap, entry)
                entries = entries[:1]
            live = self._in_time(key, entries)
            if entries and len(live) == len(entries):
                batch = [waiting for _, _, waiting in entries]
            else:  # who is left out was perhaps why this key was chosen: choose anew
                batch = []
                for entry in live:
                    heapq.heappush(heap, entry)
            if not heap:
                del self._heaps[key]
            if batch:
                return key, batch
        return None

    def drain(self) -> Iterator[Waiting[Item, Raw]]:
        """Everything, taken out."""
        heaps, self._heaps = self._heaps, {}
        return (entry[2] for heap in heaps.values() for entry in heap)

    def late(self, waiting: Waiting[Item, Raw]) -> bool:
        return waiting.deadline is not None and self._clock() >= waiting.deadline

    def _pruned(self, heap: list[Entry[Item, Raw]]) -> bool:
        """Whether the first was given up or is late: then it is taken out."""
        waiting = heap[0][2]
        if not waiting.future.done() and not self.late(waiting):
            return False
        self._left_out(waiting, "cancelled" if waiting.future.done() else "deadline")
        heapq.heappop(heap)
        return True

    def _filled(self, heap: list[Entry[Item, Raw]]) -> list[Entry[Item, Raw]]:
        """As many as fit, in their order, taken out."""
        entries: list[Entry[Item, Raw]] = []
        cost = 0
        while heap and len(entries) < self._max_size:
            if self._pruned(heap):
                continue
            cost += heap[0][2].cost
            if entries and self._max_cost is not None and cost > self._max_cost:
                break
            entries.append(heapq.heappop(heap))
        return entries

    def _only_alone(self, key: Hashable, entries: Sequence[Entry[Item, Raw]]) -> bool:
        """Whether the first would be late at the end of this batch, and not of one of its own."""
        deadline = entries[0][2].deadline
        return deadline is not None and self._end(key, entries[:1]) <= deadline < self._end(key, entries)

    def _end(self, key: Hashable, entries: Sequence[Entry[Item, Raw]]) -> float:
        """When a batch of these would be through at the earliest, Unix time in seconds."""
        now = self._clock()
        cost = sum(waiting.cost for _, _, waiting in entries)
        return now + self.times.quickest(key, len(entries), cost, now)

    def _in_time(self, key: Hashable, entries: Sequence[Entry[Item, Raw]]) -> Sequence[Entry[Item, Raw]]:
        """Those that would not be late at the end of this batch."""
        end = self._end(key, entries)
        live = []
        for entry in entries:
            waiting = entry[2]
            if waiting.deadline is not None and waiting.deadline < end:
                self._left_out(waiting, "deadline")
            else:
                live.append(entry)
        return live
