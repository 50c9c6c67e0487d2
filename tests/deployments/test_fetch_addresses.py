"""Images by URL: only public addresses are dialled, those that were checked, and TLS holds the host to its name."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import httpcore
import pytest

from deployments.fetch import Fetcher, FetchError
from deployments.fetch_settings import FetchSettings
from tests.deployments.tls_server import (
    ALLOWED,
    BODY,
    HOST,
    PUBLIC,
    URL,
    Names,
    Wires,
    answer,
    fetch,
    redirect,
    serving,
    trusting,
)

NOT_PUBLIC = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:7f00:1::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:5db8:d70e::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "0x7f.1",
    "010.0.0.1",
    "localhost",
    "",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_never_dialled(address: str) -> None:
    outcome = fetch(names={HOST: [[address]]})
    outcome.refused("url_not_allowed")
    assert outcome.wires.dialled == []


@pytest.mark.parametrize(
    ("address", "dialled"),
    [
        ("8.8.8.8", "8.8.8.8"),
        ("100.63.255.255", "100.63.255.255"),
        ("172.32.0.1", "172.32.0.1"),
        ("2606:4700::1111", "2606:4700::1111"),
        ("::ffff:8.8.8.8", "8.8.8.8"),
        ("64:ff9b::8.8.8.8", "64:ff9b::808:808"),
    ],
)
def test_a_public_address_is_dialled(address: str, dialled: str) -> None:
    outcome = fetch(names={HOST: [[address]]})
    assert outcome.found == BODY
    assert outcome.wires.dialled == [(dialled, 443)]


@pytest.mark.parametrize("answers", [[PUBLIC, "10.0.0.1"], ["10.0.0.1", PUBLIC], [PUBLIC, "2606:4700::1", "::1"]])
def test_one_address_that_is_not_public_condemns_them_all(answers: list[str]) -> None:
    outcome = fetch(names={HOST: [answers]})
    outcome.refused("url_not_allowed")
    assert outcome.wires.dialled == []


def test_a_name_that_resolves_differently_the_second_time_gains_nothing() -> None:
    rebinding = {HOST: [[PUBLIC], ["127.0.0.1"]]}
    outcome = fetch(names=rebinding)
    assert outcome.found == BODY
    assert outcome.names.asked == [HOST], "looked up once: what was checked is what is dialled"
    assert outcome.wires.dialled == [(PUBLIC, 443)]
    again = fetch(pages={"/a.png": redirect("/b.png"), "/b.png": answer(BODY)}, names=rebinding)
    again.refused("url_not_allowed")
    assert again.wires.dialled == [(PUBLIC, 443)], "a redirect to the same name is checked anew"


@pytest.mark.parametrize("names", [{HOST: [[]]}, {HOST: []}])
def test_a_name_without_an_address_is_not_fetched(names: dict[str, list[list[str]]]) -> None:
    fetch(names=names).refused("url_not_fetched")


def test_the_next_checked_address_serves_where_the_first_refuses() -> None:
    class FirstIsDown(Wires):
        async def connect_tcp(self, host: str, port: int, *rest: Any, **options: Any) -> httpcore.AsyncNetworkStream:
            if not self.dialled:
                self.dialled.append((host, port))
                raise httpcore.ConnectError
            return await super().connect_tcp(host, port)

    async def run() -> tuple[bytes, list[tuple[str, int]]]:
        async with serving({"/a.png": answer(BODY)}) as server:
            wires = FirstIsDown(server.port)
            names = Names({HOST: [["2606:4700::1", PUBLIC]]})
            settings = FetchSettings.model_validate(ALLOWED)
            fetcher = Fetcher(settings, resolver=names, ssl_context=trusting(), network=wires)
            return await fetcher.fetch(URL, time.time() + 20), wires.dialled

    assert asyncio.run(run()) == (BODY, [("2606:4700::1", 443), (PUBLIC, 443)])


# Certificates


def test_a_certificate_of_another_name_is_refused_and_nothing_is_asked_for() -> None:
    outcome = fetch(
        "https://other.example.org/a.png",
        names={"other.example.org": [[PUBLIC]]},
        settings={"allowed_hosts": ["other.example.org"]},
    )
    outcome.refused("url_not_fetched")
    assert outcome.server.names == ["other.example.org"]
    assert outcome.server.heads == []


def test_a_certificate_that_nobody_vouches_for_is_refused() -> None:
    async def run() -> list[str]:
        async with serving({"/a.png": answer(BODY)}) as server:
            settings = FetchSettings.model_validate(ALLOWED)
            fetcher = Fetcher(settings, resolver=Names({HOST: [[PUBLIC]]}), network=Wires(server.port))
            with pytest.raises(FetchError, match="url_not_fetched"):
                await fetcher.fetch(URL, time.time() + 20)
            return server.heads

    assert asyncio.run(run()) == []


# The system's resolver


def test_the_system_is_asked_for_this_very_name_and_answers_with_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def getaddrinfo(host: bytes, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        kinds = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(socket.AF_INET, *kinds, (PUBLIC, port)), (socket.AF_INET6, *kinds, ("fc00::1", port, 0, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(FetchError, match="url_not_allowed"):  # for the second address: both were seen
        asyncio.run(Fetcher(FetchSettings.model_validate(ALLOWED)).fetch(URL, time.time() + 20))
    assert asked == [f"{HOST}.".encode()], "the dot at the end: no search domain of the cluster's comes into it"


def test_a_name_that_the_system_does_not_know_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(FetchError, match="url_not_fetched"):
        asyncio.run(Fetcher(FetchSettings.model_validate(ALLOWED)).fetch(URL, time.time() + 20))
