"""A stage's refusal crosses to the ingress as a value: what a caller got wrong is no exception in a replica.

Serve would log every exception with its traceback and count it as the replica's error. A refusal that was to be
another stage's input travels on through it: `decode` of a refused embedding is that refusal.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from deployments.retry import StageLostError
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
    """`value`, unless it is a refusal: what it means is raised."""
    if isinstance(value, StageError):
        raise meant(value)
    return value


def meant(refusal: StageError) -> StageError | StageLostError:
    """`refusal`, or the loss that it is to a request.

    While one model takes the place of another, an embedding may be by weights that the mask decoder has not, or has no
    more. The image is then to be encoded again, as where the embedding was lost.
    """
    if refusal.code == "other_weights":
        return StageLostError(input_lost=True)
    return refusal
