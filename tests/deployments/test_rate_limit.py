"""How often an owner may ask, with a clock of the test's own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from deployments.auth_settings import AuthSettings, KeyEntry
from deployments.http.rate_limit import RateLimit
from deployments.keys import issue
from tests.deployments.service import Service, refusal


class Gate:
    """`RateLimit` before an application that counts, at the time `now` in seconds."""

    def __init__(self, per_minute: dict[str, int], now: float = 1e6) -> None:
        self.now = now
        self.passed = 0
        self._app = RateLimit(self._inside, per_minute, clock=lambda: self.now)

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.passed += 1
        await send({"type": "http.response.start", "status": 204, "headers": []})

    def ask(self, owner: str = "alice") -> tuple[int, int]:
        """Status, and `Retry-After` in seconds (0: none)."""
        start = self.messages({"state": {"tenant": owner}})[0]
        return start["status"], int(dict(start["headers"]).get(b"retry-after", 0))

    def messages(self, more: dict[str, Any]) -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            raise AssertionError("the body was read")

        async def send(message: Message) -> None:
            sent.append(message)

        asyncio.run(self._app({"type": "http", "method": "POST", "headers": [], **more}, receive, send))
        return sent


def test_a_burst_passes_and_then_one_in_each_interval() -> None:
    gate = Gate({"alice": 60})
    assert [gate.ask() for _ in range(12)] == [(204, 0)] * 10 + [(429, 1)] * 2
    gate.now += 0.5
    assert gate.ask() == (429, 1)
    gate.now += 0.5
    assert [gate.ask() for _ in range(2)] == [(204, 0), (429, 1)]
    gate.now += 3600  # the bucket has a brim
    assert [gate.ask()[0] for _ in range(11)] == [204] * 10 + [429]


def test_a_small_limit_lets_one_at_a_time_pass() -> None:
    gate = Gate({"alice": 1})
    assert [gate.ask(), gate.ask()] == [(204, 0), (429, 60)]
    gate.now += 45
    assert gate.ask() == (429, 15)
    gate.now += 15
    assert gate.ask() == (204, 0)


def test_owners_are_apart_and_those_without_a_number_have_no_limit() -> None:
    gate = Gate({"alice": 1, "bob": 1})
    assert [gate.ask("alice")[0], gate.ask("alice")[0], gate.ask("bob")[0]] == [204, 429, 204]
    assert {gate.ask("carol")[0] for _ in range(100)} == {204}
    assert {gate.messages({})[0]["status"] for _ in range(100)} == {204}  # an open path: nobody's


def test_the_refusal_has_the_one_format_and_the_body_is_not_read() -> None:
    gate = Gate({"alice": 1})
    gate.ask()
    start, body = gate.messages({"state": {"tenant": "alice"}})
    assert start["status"] == 429
    assert json.loads(body["body"])["error"]["code"] == "rate_limited"


@given(per_minute=st.integers(1, 100_000), steps=st.lists(st.floats(0, 90), max_size=60), start=st.floats(0, 1e9))
def test_who_waits_as_told_passes_and_nobody_gets_more_than_the_bucket(
    per_minute: int, steps: list[float], start: float
) -> None:
    gate = Gate({"alice": per_minute}, now=start)
    for step in steps:
        gate.now += step
        status, wait_s = gate.ask()
        if status == 429:
            assert 1 <= wait_s <= 60
            gate.now += wait_s
            assert gate.ask() == (204, 0)
    burst = max(1, per_minute // 6)
    assert gate.passed <= burst + (gate.now - start) * per_minute / 60 + 1


def entries(*limits: int | None) -> list[dict[str, Any]]:
    """One key for each of `limits`, all of one owner."""
    return [{**issue("alice")[1].model_dump(exclude_unset=True), "requests_per_minute": limit} for limit in limits]


def test_an_entry_overrides_the_default_and_null_lifts_it() -> None:
    bob = issue("bob")[1]
    default = AuthSettings(keys=(bob,), requests_per_minute=5)
    assert default.limits() == {"bob": 5}
    assert AuthSettings(keys=(bob,)).limits() == {}
    own = AuthSettings.model_validate({"keys": [*entries(7, 7), bob], "requests_per_minute": 5})
    assert own.limits() == {"alice": 7, "bob": 5}
    assert AuthSettings.model_validate({"keys": entries(None), "requests_per_minute": 5}).limits() == {}


@pytest.mark.parametrize("limits", [(7, 8), (7, None)])
def test_keys_of_one_owner_must_agree(limits: tuple[int | None, ...]) -> None:
    with pytest.raises(ValueError, match="the entries of alice disagree on requests_per_minute"):
        AuthSettings.model_validate({"keys": entries(*limits)})


def test_two_keys_of_one_owner_share_a_limit_in_the_service() -> None:
    (key, first), (other_key, second) = issue("alice"), issue("alice")
    carol_key, carol = issue("carol")
    unlimited = KeyEntry(owner="carol", sha256=carol.sha256, requests_per_minute=None)
    service = Service(auth=AuthSettings(keys=(first, second, unlimited), requests_per_minute=12))

    def ask(key: str) -> Any:
        return service.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})

    assert [ask(key).status_code, ask(other_key).status_code] == [200, 200]
    response = ask(key)
    refusal(response, 429, "rate_limited")
    assert 1 <= int(response.headers["retry-after"]) <= 5
    assert {ask(carol_key).status_code for _ in range(5)} == {200}
    assert service.request("GET", "/healthz").status_code == 200
