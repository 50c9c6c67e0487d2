"""What reads URLs, hosts and addresses in `deployments/`, each as a function of bytes; see `pipeline_targets`.

Nothing is dialled.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from typing import Any
from urllib.parse import urlsplit

import httpcore

from deployments.fetch import Fetcher, FetchError
from deployments.fetch_settings import FetchSettings
from deployments.fetch_target import MAX_HOST_LENGTH, Target, is_allowed, parse, public_address
from tests.fuzz.pipeline_targets import text_of

RULES = ("images.example.com", "*.cdn.example.com")
_FETCH = FetchSettings(enabled=True, allowed_hosts=RULES)
_TLS = httpcore.default_ssl_context()


def url(data: bytes) -> None:
    """A URL, and after a line feed where it redirects to."""
    first, _, location = data.decode("utf-8", "replace").partition("\n")
    target = parse(first)
    if target is None:
        return
    _one_meaning(first, target)
    redirected = target.redirected(location)
    if redirected is not None:
        if not location.startswith("/"):
            _one_meaning(location, redirected)
        assert redirected.host == target.host or redirected.host in location.lower()


def _one_meaning(text: str, target: Target) -> None:
    """What we dial is what every reader of the URL would: else a check elsewhere would see another host."""
    host = target.host
    other = urlsplit(text)
    assert (other.scheme, other.hostname, other.port or 443) == ("https", host, 443)
    assert other.username is None
    assert len(host) <= MAX_HOST_LENGTH
    assert re.fullmatch(r"[a-z0-9.-]+\.[a-z][a-z0-9-]*", host)
    assert re.fullmatch(r"/[!-~]*", target.path_and_query)
    assert target.url.host == host.encode()
    allowed = host == "images.example.com" or host.endswith(".cdn.example.com")
    assert is_allowed(host, RULES) == allowed


def host_rule(data: bytes) -> None:
    """A list of hosts, as an environment variable has it. Documented: ValueError (pydantic's is one)."""
    try:
        settings = FetchSettings.model_validate({"allowed_hosts": text_of(data)})
    except ValueError:
        return
    for rule in settings.allowed_hosts:
        name = rule.removeprefix("*.")
        assert parse(f"https://{name}/") is not None
        assert is_allowed(name, [rule]) == (not rule.startswith("*."))
        assert is_allowed(f"a.{name}", [rule]) == rule.startswith("*.")


def address(data: bytes) -> None:
    found = public_address(text_of(data))
    if found is None:
        return
    assert public_address(found) == found
    _is_public(found)


def _is_public(text: str) -> None:
    one = ipaddress.ip_address(text)
    if isinstance(one, ipaddress.IPv6Address) and one in ipaddress.ip_network("64:ff9b::/96"):
        one = ipaddress.IPv4Address(int(one) & 0xFFFFFFFF)
    assert not (one.is_private or one.is_loopback or one.is_link_local or one.is_multicast or one.is_unspecified)
    assert str(one) not in ("168.63.129.16", "100.100.100.200", "169.254.169.254")


class _Recorder(httpcore.AsyncNetworkBackend):
    """A network on which nobody answers."""

    def __init__(self) -> None:
        self.dialled: list[str] = []

    async def connect_tcp(self, host: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.dialled.append(host)
        raise httpcore.ConnectError


def fetch(data: bytes) -> None:
    """A URL, and on the lines after it the addresses that its host resolves to."""
    first, *answers = data.decode("utf-8", "replace").split("\n")
    looked_up: list[str] = []
    network = _Recorder()

    async def resolve(host: str) -> list[str]:
        looked_up.append(host)
        return answers

    async def fetched() -> None:
        fetcher = Fetcher(_FETCH, resolver=resolve, network=network, ssl_context=_TLS)
        await fetcher.fetch(first, time.time() + 60)

    try:
        asyncio.run(fetched())
        raise AssertionError("nobody answers, and yet it was fetched")
    except FetchError as error:
        assert error.code in ("url_not_allowed", "invalid_value", "url_not_fetched")
    assert all(is_allowed(host, RULES) for host in looked_up)
    assert len(looked_up) <= 1
    for one in network.dialled:
        _is_public(one)
