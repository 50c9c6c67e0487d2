"""The attempts of a call, step by step, without clock and network."""

from __future__ import annotations

import unicodedata
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.client.answers import Reply, error_in
from deployments.client.errors import (
    ClientError,
    DeadlineError,
    FaultError,
    OverloadedError,
    RefusedError,
    UnavailableError,
)
from deployments.client.retry import MIN_LEFT_S, Attempt, Backoff, Clock, Pause, Step, Steps, attempts

UNIX = 1_800_000_000.0


class Time:
    """A clock that moves when told."""

    def __init__(self, chance: float = 0.5) -> None:
        self.now = 100.0
        self.clock = Clock(lambda: self.now, lambda: UNIX + self.now, lambda: chance)


def reply(status: int, code: str = "", **headers: str) -> Reply:
    body = b'{"error": {"code": "%s", "message": "a sentence", "param": null}}' % code.encode() if code else b"text"
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


BUSY = reply(429, "overloaded", retry_after="1")
BROKEN = UnavailableError("connection_failed", "reset")
GOOD = reply(200)


def start(time: Time, timeout_s: float = 60, image_id: str | None = None, **backoff: Any) -> tuple[Steps, Step]:
    steps = attempts(timeout_s, Backoff(**backoff), time.clock, image_id=image_id, request_id="request-1")
    return steps, next(steps)


def follow(steps: Steps, outcomes: list[Reply | ClientError | None]) -> list[Step]:
    return [steps.send(outcome) for outcome in outcomes]


def test_waits_double_from_half_a_second_and_end_with_the_attempts() -> None:
    time = Time(chance=0.999)
    steps, first = start(time, attempts=7)
    assert first == Attempt(1, 60, None)
    pauses = []
    for _ in range(6):
        pause = steps.send(BROKEN)
        assert isinstance(pause, Pause)
        pauses.append(round(pause.seconds / 0.999, 6))
        steps.send(None)
    assert pauses == [0.5, 1, 2, 4, 8, 8]
    with pytest.raises(UnavailableError) as caught:
        steps.send(BROKEN)
    assert caught.value.request_id == "request-1"


def test_retry_after_comes_before_the_jitter() -> None:
    for value, seconds in (("3", 3.0), ("0", 0.0), (formatdate(UNIX + 107, usegmt=True), 7.0), ("soon", 0.0)):
        steps, _ = start(Time())
        assert steps.send(reply(503, "not_ready", retry_after=value)) == Pause(seconds + 0.25)
    steps, _ = start(Time(), timeout_s=3.1)  # the jitter would not fit
    assert steps.send(reply(429, "overloaded", retry_after="3")) == Pause(3.0)


def test_a_longer_retry_after_than_the_time_left_is_the_end_at_once() -> None:
    time = Time()
    steps, _ = start(time, timeout_s=5)
    time.now += 2
    with pytest.raises(OverloadedError, match=r"it asks to wait 120 s, and 3 s are left \(rate_limited") as caught:
        steps.send(reply(429, "rate_limited", retry_after="120"))
    assert caught.value.retry_after_s == 120


def test_no_wait_beyond_the_deadline() -> None:
    steps, _ = start(Time(chance=0.99), timeout_s=0.4)  # 0.495 s would be too late
    pause = steps.send(BROKEN)
    assert isinstance(pause, Pause)
    assert pause.seconds == pytest.approx(0.2)
    steps, _ = start(Time(chance=0.99), timeout_s=1.5 * MIN_LEFT_S)
    with pytest.raises(DeadlineError, match="no further attempt fits into") as caught:
        steps.send(BROKEN)
    assert caught.value.__cause__ is BROKEN
    time = Time()
    steps, _ = start(time, timeout_s=10)
    steps.send(BROKEN)
    time.now += 10  # it slept too long
    with pytest.raises(DeadlineError, match="its 10 seconds") as caught:
        steps.send(None)
    assert caught.value.__cause__ is BROKEN


def test_the_time_left_is_that_of_each_attempt() -> None:
    time = Time()
    steps, _ = start(time, timeout_s=10)
    time.now += 3
    assert steps.send(BROKEN) == Pause(0.25)
    time.now += 0.25
    assert steps.send(None) == Attempt(2, 6.75, None)


def test_time_over_under_an_attempt_tells_of_the_failure_before_and_the_whole_time() -> None:
    steps, _ = start(Time())
    follow(steps, [BUSY, None])
    with pytest.raises(DeadlineError, match="after its 60 seconds") as caught:
        steps.send(None)
    assert isinstance(caught.value.__cause__, OverloadedError)


def test_an_unknown_id_is_followed_by_the_image_and_counts_as_no_failure() -> None:
    steps, first = start(Time(), image_id="an id", attempts=1)
    assert first == Attempt(1, 60, "an id")
    assert steps.send(reply(404, "image_not_cached")) == Attempt(1, 60, None)
    with pytest.raises(StopIteration) as done:
        steps.send(GOOD)
    assert done.value.value is GOOD


def test_an_unknown_id_that_the_caller_gave_is_refused() -> None:
    steps, _ = start(Time())
    with pytest.raises(RefusedError, match="image_not_cached"):
        steps.send(reply(404, "image_not_cached"))


def test_the_id_stays_through_failures_and_the_image_after_it_too() -> None:
    steps, _ = start(Time(), image_id="an id")
    assert follow(steps, [BROKEN, None])[1] == Attempt(2, 60, "an id")
    assert steps.send(reply(404, "image_not_cached")) == Attempt(2, 60, None)
    assert follow(steps, [BROKEN, None])[1] == Attempt(3, 60, None)


ONCE: tuple[tuple[Reply, type[ClientError], str], ...] = (
    (reply(400, "malformed_request"), RefusedError, "malformed_request"),
    (reply(408, "deadline_exceeded"), DeadlineError, "deadline_exceeded"),
    (reply(408), DeadlineError, "http_408"),
    (reply(413), RefusedError, "http_413"),
    (reply(422, "invalid_value"), RefusedError, "invalid_value"),
    (reply(500, "internal"), FaultError, "internal"),
    (reply(501), FaultError, "http_501"),
    (reply(204), FaultError, "http_204"),
    (reply(307, location="https://elsewhere.test/"), RefusedError, "redirected"),
)


@pytest.mark.parametrize(("answer", "kind", "code"), ONCE)
def test_what_is_not_asked_again(answer: Reply, kind: type[ClientError], code: str) -> None:
    steps, _ = start(Time())
    with pytest.raises(kind) as caught:
        steps.send(answer)
    assert (caught.value.code, caught.value.status) == (code, answer.status)


AGAIN = (BUSY, BROKEN, reply(503, "not_ready"), reply(503), reply(500), reply(502), reply(504))


@pytest.mark.parametrize("outcome", AGAIN)
def test_what_is_asked_again(outcome: Reply | ClientError) -> None:
    steps, _ = start(Time())
    pause, attempt = follow(steps, [outcome, None])
    assert isinstance(pause, Pause)
    assert attempt == Attempt(2, 60, None)


OUTCOMES = st.sampled_from((*AGAIN, *(answer for answer, *_ in ONCE), reply(404, "image_not_cached"), GOOD))
SECONDS = st.floats(0, 20)


@given(
    timeout_s=st.floats(0.001, 30),
    limit=st.integers(1, 8),
    image_id=st.none() | st.just("an id"),
    chance=st.floats(0, 1, exclude_max=True),
    script=st.lists(
        st.tuples(OUTCOMES | st.builds(lambda s: reply(503, retry_after=str(s)), st.integers(0, 40)), SECONDS)
    ),
)
def test_whatever_comes_attempts_are_bounded_and_no_pause_passes_the_deadline(
    timeout_s: float, limit: int, image_id: str | None, chance: float, script: list[tuple[Reply | ClientError, float]]
) -> None:
    time = Time(chance)
    end = time.now + timeout_s
    steps = attempts(timeout_s, Backoff(limit), time.clock, image_id=image_id, request_id="request-1")
    sent = 0
    ended: object = None
    outcome: Reply | ClientError | None = None
    coming = iter(script * 10)
    while ended is None:
        try:
            step = steps.send(outcome)
        except (StopIteration, ClientError) as end_of_it:
            ended = end_of_it
            break
        if isinstance(step, Pause):
            assert 0 <= step.seconds < end - time.now
            time.now += step.seconds
            outcome = None
        else:
            assert MIN_LEFT_S <= step.left_s <= end - time.now
            sent += 1
            outcome, took = next(coming, (GOOD, 0.0))
            time.now += took
    if isinstance(ended, ClientError):
        assert ended.request_id == "request-1"
        assert outcome is not GOOD, "a good answer was thrown away"
    else:
        assert outcome is GOOD
    assert sent <= limit + (image_id is not None)


@given(st.integers(100, 999), st.binary(max_size=2000), st.text(max_size=50), st.text(max_size=50))
def test_any_answer_is_a_result_or_an_error(status: int, body: bytes, kind: str, retry_after: str) -> None:
    headers = {"content-type": kind, "retry-after": retry_after, "location": kind + retry_after}
    error = error_in(Reply(status, headers, body), UNIX)
    assert (error is None) == (status == 200)
    if error is not None:
        assert len(str(error)) < 800
        assert not any(unicodedata.category(sign) == "Cc" for sign in str(error))
