"""Ask again when a replica or an object died under a call, or an input was of other weights, and only then.

Stages are pure functions of their input, so repeating one is safe. An application error would only repeat itself, and a
refusal under load must not be multiplied: neither is retried.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

ATTEMPTS = 3
PAUSE_S = 0.05  # lets the router hear of the death; where no replica is left the router itself waits for the next one


class StageLostError(Exception):
    """A replica or an object died under a call; nothing is known about the call's outcome.

    Args:
        input_lost: what the call was given is lost, or is not for these weights: whatever made it has to run again too.
    """

    def __init__(self, *, input_lost: bool = False) -> None:
        super().__init__()
        self.input_lost = input_lost


async def with_retries(
    attempt: Callable[[int], Awaitable[T]],
    deadline: float,
    *,
    attempts: int = ATTEMPTS,
    clock: Callable[[], float] = time.time,
) -> T:
    """The outcome of the first `attempt` that does not end in `StageLostError`.

    Args:
        attempt: called with 0, 1, ...; it starts anew whatever the loss took with it.
        deadline: Unix time in seconds; no attempt begins after it.
        attempts: how many there are at most.
        clock: Unix time in seconds.

    Raises:
        StageLostError: the last attempt was lost too, or the deadline leaves no room for another.
    """
    for number in range(attempts):
        try:
            return await attempt(number)
        except StageLostError:
            if number + 1 == attempts or clock() + PAUSE_S >= deadline:
                raise
            await asyncio.sleep(PAUSE_S)
    raise AssertionError("attempts must be at least 1")
