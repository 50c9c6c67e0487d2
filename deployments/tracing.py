"""Spans of our own inside those that Serve makes: what an item waited for, and what was done with it.

Serve switches tracing on in each replica (`tracing_config`); where it is off, or a request is not sampled, everything
here is one look at a context variable. Spans are told when they are over: batches have many parents, threads have none.
"""

from __future__ import annotations

import time
from typing import Any

try:  # it comes with Ray; in process, without it, there is nothing to trace
    from opentelemetry import context as otel_context
    from opentelemetry import trace as otel_trace
except ImportError:  # pragma: no cover  # no test environment is without it
    otel_trace = None  # type: ignore[assignment]

_UNIX_NS = time.time_ns() - time.perf_counter_ns()  # of the moment at which `perf_counter` is 0


def here() -> Any:
    """The place in a trace that the calling code is at; None where nothing is recorded."""
    if otel_trace is None or not otel_trace.get_current_span().is_recording():
        return None
    return otel_context.get_current()


def tell(name: str, place: Any, begin: float, end: float, **attributes: str | float) -> None:
    """A span below `place` (see `here`), from `begin` to `end` (`time.perf_counter()`)."""
    if place is None:
        return
    tracer = otel_trace.get_tracer("text2mask")
    span = tracer.start_span(name, context=place, start_time=_unix_ns(begin), attributes=attributes)
    span.end(end_time=_unix_ns(end))


def _unix_ns(moment: float) -> int:
    return _UNIX_NS + int(moment * 1e9)
