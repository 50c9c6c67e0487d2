"""What an image encoder keeps of the images it has seen: their bytes and embeddings, within a byte budget."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from pipeline.errors import StageError
from pipeline.stages import Embedding, Region

T = TypeVar("T")

OVERHEAD = 2048  # bytes that an entry takes beside its payload; without, a budget would hold small images without end


@dataclass(slots=True)
class _Entry:
    image: bytes
    embeddings: dict[Region | None, Embedding] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return OVERHEAD + len(self.image) + sum(one.features.nbytes for one in self.embeddings.values())


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

    def keep(self, key: str, image: bytes, region: Region | None, embedding: Embedding) -> None:
        """Keep an embedding with its image. An entry never outgrows the budget: its older regions go first."""
        entry = self._entries.setdefault(key, _Entry(image))
        self._entries.move_to_end(key)
        before = 0 if not entry.embeddings else entry.size
        entry.embeddings[region] = embedding
        while len(entry.embeddings) > 1 and entry.size > self._budget:
            del entry.embeddings[next(iter(entry.embeddings))]
        self.size += entry.size - before
        while self.size > self._budget:
            _, oldest = self._entries.popitem(last=False)
            self.size -= oldest.size

    def _touch(self, key: str) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    waiting: int = 0


class Flights(Generic[T]):
    """Work that is asked for while it is under way is done once, and given up when the last that waits has gone."""

    def __init__(self) -> None:
        self._flights: dict[Any, _Flight[T]] = {}

    def under_way(self, key: Any) -> bool:
        """Whether `join` would wait for another's work."""
        return self._joinable(key) is not None

    async def join(self, key: Any, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The outcome of `work`, or of another's that began before under the same key.

        Another's work may be dropped at its own deadline, which is earlier; then `work` is begun after all.
        """
        while True:
            flight = self._joinable(key)
            mine = flight is None
            if flight is None:
                flight = self._flights[key] = _Flight(asyncio.create_task(work()))
                flight.task.add_done_callback(partial(self._land, key, flight))
            flight.waiting += 1
            try:
                return await asyncio.shield(flight.task)  # one that leaves does not take the others' work away
            except StageError as error:
                if mine or error.code != "deadline_exceeded":
                    raise
            finally:
                flight.waiting -= 1
                if not flight.waiting:
                    flight.task.cancel()  # nothing, if it is through

    def _joinable(self, key: Any) -> _Flight[T] | None:
        """The work under `key`, unless it is being given up."""
        flight = self._flights.get(key)
        return None if flight is None or flight.task.cancelling() else flight

    def _land(self, key: Any, flight: _Flight[T], task: asyncio.Task[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        if not task.cancelled():
            task.exception()  # with nobody left to read it, asyncio would complain
