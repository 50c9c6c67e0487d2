"""Which images the service was seen to keep, and under which id."""

from __future__ import annotations

from collections import OrderedDict

Key = tuple[bytes, str | None]
"""SHA-256 of the bytes, and the model as it was asked for: another segmenter keeps images of its own."""


class KnownImages:
    """The ids of the last `capacity` images that were sent; those asked for longest ago are forgotten first."""

    def __init__(self, capacity: int = 1024) -> None:
        self._capacity = capacity
        self._ids: OrderedDict[Key, str] = OrderedDict()

    def find(self, key: Key) -> str | None:
        if key in self._ids:
            self._ids.move_to_end(key)
        return self._ids.get(key)

    def remember(self, key: Key, image_id: str) -> None:
        self._ids[key] = image_id
        self._ids.move_to_end(key)
        while len(self._ids) > self._capacity:
            self._ids.popitem(last=False)

    def forget(self, key: Key, image_id: str) -> None:
        """That `image_id` is no use; another call may have learnt a newer one meanwhile."""
        if self._ids.get(key) == image_id:
            del self._ids[key]
