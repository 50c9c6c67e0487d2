"""A stage's refusal crosses to the ingress as a value: what a caller got wrong is no exception in a replica.

Serve would log every exception with its traceback and count it as the replica's error. A refusal that was to be
another stage's input travels on through it: `decode` of a refused embedding is that refusal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from pipeline.errors import StageError

P = ParamSpec("P")
T = TypeVar("T")


def as_value(method: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T | StageError]]:
    """`method`, which gives back the StageError that it is given as an argument, or that it raises."""

    @wraps(method)
    async def calling(*args: P.args, **kwargs: P.kwargs) -> T | StageError:
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, StageError):
                return argument
        try:
            return await method(*args, **kwargs)
        except StageError as refusal:
            # Anew: its traceback would hold the image and the batch for as long as the value is kept.
            return StageError(refusal.code, refusal.message, refusal.param)

    return calling


def raised(value: T | StageError) -> T:
    """`value`, unless it is a refusal, which is raised."""
    if isinstance(value, StageError):
        raise value
    return value
