"""What an image encoder keeps of the images it has seen: their bytes and embeddings, within a byte budget."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pipeline.stages import Embedding, Region

T = TypeVar("T")


@dataclass(slots=True)
class _Entry:
    image: bytes
    embeddings: dict[Region | None, Embedding] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.image) + sum(one.features.nbytes for one in self.embeddings.values())


class ImageCache:
    """One entry an image; the one that was asked for longest ago goes first.

    Args:
        budget: bytes of all entries; 0 keeps nothing.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self.size = 0

    def image(self, key: str) -> bytes | None:
        """The encoded image, if it is here."""
        entry = self._touch(key)
        return None if entry is None else entry.image

    def embedding(self, key: str, region: Region | None) -> Embedding | None:
        entry = self._touch(key)
        return None if entry is None else entry.embeddings.get(region)

    def keep_image(self, key: str, image: bytes) -> None:
        """Keep `image`, unless it alone exceeds the budget."""
        if self._touch(key) is None and len(image) <= self._budget:
            self._entries[key] = _Entry(image)
            self.size += len(image)
            self._shrink()

    def keep_embedding(self, key: str, region: Region | None, embedding: Embedding) -> None:
        """Keep it with its image, if that is still here; an entry never outgrows the budget: older regions go first."""
        entry = self._touch(key)
        if entry is None or region in entry.embeddings:
            return
        while entry.embeddings and entry.size + embedding.features.nbytes > self._budget:
            oldest = next(iter(entry.embeddings))
            self.size -= entry.embeddings.pop(oldest).features.nbytes
        if entry.size + embedding.features.nbytes <= self._budget:
            entry.embeddings[region] = embedding
            self.size += embedding.features.nbytes
            self._shrink()

    def _touch(self, key: str) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def _shrink(self) -> None:
        while self.size > self._budget:
            _, entry = self._entries.popitem(last=False)
            self.size -= entry.size


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    deadline: float
    waiting: int = 0


class Flights(Generic[T]):
    """Work that is asked for while it is under way is done once, and given up when the last that waits has gone."""

    def __init__(self) -> None:
        self._flights: dict[Any, _Flight[T]] = {}

    async def join(self, key: Any, deadline: float | None, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The outcome of `work`, or of another's that began before under the same key.

        Args:
            deadline: Unix time in seconds, of this caller; work with an earlier one may be dropped, and is not joined.
        """
        wanted = math.inf if deadline is None else deadline
        flight = self._flights.get(key)
        if flight is None or flight.deadline < wanted or flight.task.cancelling():
            flight = _Flight(asyncio.create_task(work()), wanted)
            self._flights[key] = flight
            flight.task.add_done_callback(lambda _: self._land(key, flight))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)  # one that leaves does not take the others' work away
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                flight.task.cancel()  # nothing, if it is through

    def _land(self, key: Any, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not flight.task.cancelled():
            flight.task.exception()  # with nobody left to read it, asyncio would complain
