"""How long forward passes took of late: what a batch will take at the least."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable

_RECENT_S = 10.0  # what is older says nothing: so whatever was refused by mistake is tried again after as long
_ENOUGH = 3  # passes: the first of a shape may have been slow for reasons of its own
_KEPT = 8  # passes of one kind
_KINDS = 256  # callers choose the shapes of images: the least recently used kind goes


class ForwardTimes:
    """Of one model. A kind of pass is a key, a number of items and what they cost. Not thread-safe: no pass may run
    meanwhile."""

    def __init__(self) -> None:
        self._kinds: OrderedDict[tuple[Hashable, int, int], deque[tuple[float, float]]] = OrderedDict()

    def note(self, key: Hashable, count: int, cost: int, begin: float, end: float) -> None:
        """A pass of `count` items of `cost` together, from `begin` to `end`, Unix time in seconds."""
        passes = self._kinds.setdefault((key, count, cost), deque(maxlen=_KEPT))
        passes.append((end, end - begin))
        self._kinds.move_to_end((key, count, cost))
        if len(self._kinds) > _KINDS:
            self._kinds.popitem(last=False)

    def quickest(self, key: Hashable, count: int, cost: int, now: float) -> float:
        """Seconds of the quickest recent pass of this kind; 0 where too few are known."""
        recent = [seconds for end, seconds in self._kinds.get((key, count, cost), ()) if 0 <= now - end < _RECENT_S]
        return min(recent) if len(recent) >= _ENOUGH else 0.0
