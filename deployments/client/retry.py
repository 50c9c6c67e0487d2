"""The attempts of one call: what to send, how long to wait, when to give up. Pure: clock and network are others'."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from deployments.client.answers import Reply, error_in
from deployments.client.errors import ClientError, DeadlineError

MIN_LEFT_S = 0.01  # with less than this no answer can be had any more


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts: a random part of `first_s`, then of twice as much, up to `most_s` (full jitter).

    What `Retry-After` asks for comes before that.
    """

    attempts: int = 6
    first_s: float = 0.5
    most_s: float = 8.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 < self.first_s <= self.most_s:
            raise ValueError("attempts must be at least 1, and first_s above 0 and at most most_s")

    def jitter_s(self, failures: int, chance: float) -> float:
        """Seconds after that many failures; `chance` is in [0, 1)."""
        return chance * float(min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 64)))


@dataclass(frozen=True, slots=True)
class Clock:
    """Time and chance.

    Attributes:
        now: seconds, never backwards.
        unix: Unix time in seconds, for `Retry-After` with a date.
        chance: a number in [0, 1).
    """

    now: Callable[[], float]
    unix: Callable[[], float]
    chance: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Attempt:
    """Ask. With `image_id`, by that id; without, with the image itself. The answer is due within `left_s` seconds."""

    number: int
    left_s: float
    image_id: str | None


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


Step = Attempt | Pause
Steps = Generator[Step, Reply | ClientError | None, Reply]


def attempts(
    timeout_s: float, backoff: Backoff, clock: Clock, *, image_id: str | None, request_id: str, spent_s: float = 0.0
) -> Steps:
    """The steps of a call that may take `timeout_s` seconds, of which `spent_s` are over.

    Yields what to do next; for an `Attempt` it is sent the answer, or the error without one,
    or None where the time ran out. Returns a 200.

    An `image_not_cached` after an attempt by id is followed at once by one with the image, which is not counted as
    one more: nothing failed. Raises ClientError, which names `request_id`.
    """
    deadline = clock.now() + timeout_s - spent_s
    cause: ClientError | None = None

    def left_s() -> float:
        left = deadline - clock.now()
        if left < MIN_LEFT_S:
            raise out_of_time(timeout_s, request_id) from cause
        return left

    number = 1
    while True:
        outcome = (yield Attempt(number, left_s(), image_id)) or out_of_time(timeout_s)
        if image_id is not None and _error_in(outcome, clock, "image_not_cached"):
            image_id = None
            outcome = (yield Attempt(number, left_s(), None)) or out_of_time(timeout_s)
        error = _error_in(outcome, clock)
        if error is None:
            assert isinstance(outcome, Reply)
            return outcome
        error.request_id = request_id
        if isinstance(error, DeadlineError):
            raise error from cause
        if not error.transient or number == backoff.attempts:
            raise error
        cause = error
        yield Pause(_pause_s(error, backoff.jitter_s(number, clock.chance()), left_s(), timeout_s))
        number += 1


def out_of_time(timeout_s: float, request_id: str = "") -> DeadlineError:
    return DeadlineError(
        "deadline_exceeded", f"the call was not through after its {timeout_s:g} seconds", request_id=request_id
    )


def _pause_s(error: ClientError, jitter_s: float, left_s: float, timeout_s: float) -> float:
    """Seconds until the next attempt, less than `left_s`. Raises ClientError where there can be none."""
    asked_s = error.retry_after_s or 0.0
    if asked_s > 0 and asked_s >= left_s:
        error.message += f"; it asks to wait {asked_s:g} s, and {left_s:.3g} s are left"
        raise error
    if asked_s + jitter_s < left_s:
        return asked_s + jitter_s
    if asked_s > 0:
        return asked_s
    if left_s / 2 >= MIN_LEFT_S:  # sooner than drawn, but once more: the call has little time, not none
        return left_s / 2
    late = out_of_time(timeout_s, error.request_id)
    late.message = f"no further attempt fits into what is left of the call's {timeout_s:g} seconds"
    raise late from error


def _error_in(outcome: Reply | ClientError, clock: Clock, code: str | None = None) -> ClientError | None:
    """The error that `outcome` is, if it is of that code."""
    error = error_in(outcome, clock.unix()) if isinstance(outcome, Reply) else outcome
    return error if error is not None and code in (None, error.code) else None
