"""What is known of the request under way: its log line, its `Server-Timing` header and its metrics are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class Facts:
    """Filled in by whoever comes to know it; None is unknown.

    Attributes:
        owner: of the key; never the key.
        code: of the error that the request ended in.
        limit: which one refused it: `rate_limit`, `requests` or `bytes`.
        body_bytes: of its body, as read.
        read_ms: until body and image were there.
        timings_ms: what took how long.
    """

    id: str = ""
    owner: str = ""
    code: str | None = None
    limit: str | None = None
    body_bytes: int = 0
    pixels: int | None = None
    detections: int | None = None
    read_ms: float = 0.0
    timings_ms: Mapping[str, float] = field(default_factory=dict)


CURRENT: ContextVar[Facts | None] = ContextVar("facts", default=None)


def facts() -> Facts:
    """Of the request under way; outside of one, a record that nobody reads."""
    return CURRENT.get() or Facts()
