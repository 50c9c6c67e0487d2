"""Images by URL: whatever URL, redirect or answer, only public addresses of listed hosts are dialled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx
from hypothesis import given
from hypothesis import strategies as st

from deployments.fetch import Fetcher, FetchError
from deployments.fetch_settings import FetchSettings
from tests.deployments.tls_server import ALLOWED, HOST, PUBLIC, URL, Names, answer, trusting

NAT64 = ip_network("64:ff9b::/96")
EVERYTHING = {HOST: [[PUBLIC]], "a.cdn.example.com": [[PUBLIC]], "evil.com": [["6.6.6.6"]]}


class Recorder(httpcore.AsyncMockBackend):
    """Writes down what is dialled; every answer is `page`."""

    def __init__(self, page: bytes = b"") -> None:
        super().__init__([page])
        self.dialled: list[tuple[str, int]] = []

    async def connect_tcp(self, host: str, port: int, *rest: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        self.dialled.append((host, port))
        return await super().connect_tcp(host, port)


def dialling(names: Mapping[str, Sequence[Sequence[str]]], url: str, page: bytes = answer(b"")) -> Recorder:
    """What is dialled for `url`, and that nothing but a `FetchError` comes of it."""
    recorder, resolver = Recorder(page), Names(names)
    fetcher = Fetcher(
        FetchSettings.model_validate(ALLOWED), resolver=resolver, ssl_context=trusting(), network=recorder
    )
    with suppress(FetchError):
        asyncio.run(fetcher.fetch(url, time.time() + 20))
    assert all(host == HOST or host.endswith(".cdn.example.com") for host in resolver.asked), resolver.asked
    return recorder


PIECES = st.sampled_from(
    [
        "https:",
        "http:",
        "//",
        "/",
        "\\",
        "@",
        ":",
        "443",
        ":80",
        "#",
        "?",
        "%",
        "%40",
        "%2f",
        ".",
        "..",
        "[",
        "]",
        "::1",
    ]
    + [
        HOST,
        "images",
        "example.com",
        "a.cdn.example.com",
        "evil.com",
        "127.0.0.1",
        "0x7f.1",
        "user:pw@",
        "。",
        "／",
        "ſ",
    ]
    + ["\t", "\n", "\r\n", " ", "\x00", "\u200b", "\u00ad", "\ud800", "xn--", "é", ";", "=", "&", "a", "-", "_"]
)
NEAR_URLS = st.lists(PIECES, max_size=12).map("".join)


def inserted(base: str) -> st.SearchStrategy[str]:
    return st.tuples(st.integers(0, len(base)), st.integers(0, 3), st.one_of(PIECES, st.characters())).map(
        lambda cut: base[: cut[0]] + cut[2] + base[cut[0] + cut[1] :]
    )


ANY_URL = st.one_of(st.text(), NEAR_URLS, NEAR_URLS.map("https://".__add__), inserted(URL), inserted(f"https://{HOST}"))


@given(ANY_URL)
def test_whatever_the_url_only_listed_hosts_are_dialled(url: str) -> None:
    dialled = dialling(EVERYTHING, url).dialled
    assert set(dialled) <= {(PUBLIC, 443)}
    if dialled:  # then all parsers read it alike
        parts = urlsplit(url)
        assert parts.scheme == "https"
        assert parts.hostname == httpx.URL(url).host
        assert parts.hostname == HOST or str(parts.hostname).endswith(".cdn.example.com")
        assert (parts.port, parts.username) in ((None, None), (443, None))


@given(ANY_URL)
def test_wherever_it_redirects_only_listed_hosts_are_dialled(location: str) -> None:
    page = b"HTTP/1.1 302 Found\r\nLocation: " + location.encode("utf-8", "surrogatepass") + b"\r\n\r\n"
    assert set(dialling(EVERYTHING, URL, page).dialled) <= {(PUBLIC, 443)}


@given(
    st.one_of(
        st.binary(),
        st.binary().map(b"HTTP/1.1 200 OK\r\n".__add__),
        inserted("HTTP/1.1 200 OK\r\nA: b\r\n\r\nc").map(lambda text: text.encode("utf-8", "surrogatepass")),
    )
)
def test_whatever_the_answer_it_is_a_body_or_a_refusal(page: bytes) -> None:
    assert dialling(EVERYTHING, URL, page).dialled[0] == (PUBLIC, 443)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_no_address_is_dialled_that_python_calls_special(address: IPv4Address | IPv6Address) -> None:
    dialled = dialling({HOST: [[str(address)]]}, URL).dialled
    if not address.is_global or address.is_multicast or address.is_reserved:
        carries_ipv4 = isinstance(address, IPv6Address) and (address.ipv4_mapped or address in NAT64)
        assert carries_ipv4 or dialled == []


@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:", "64:ff9b::"]))
def test_an_ipv4_address_inside_another_is_judged_by_itself(address: IPv4Address, prefix: str) -> None:
    plain, inside = (bool(dialling({HOST: [[answer]]}, URL).dialled) for answer in (str(address), f"{prefix}{address}"))
    assert plain == inside
