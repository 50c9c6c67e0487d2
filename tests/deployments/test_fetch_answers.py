"""Images by URL: answers that are none, that are too much, or that never end."""

from __future__ import annotations

import asyncio
import gzip
import time
from typing import Any

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
    Page,
    Wires,
    answer,
    fetch,
    redirect,
    trusting,
)


@pytest.mark.parametrize(
    "page",
    [
        answer(b"remote SECRET", status="404 Not Found"),
        answer(b"remote SECRET", status="500 remote SECRET"),
        answer(BODY, status="206 Partial Content"),
        answer(b"", status="304 Not Modified"),
        answer(BODY, status="101 Switching Protocols"),
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"",
        b"remote SECRET\r\n\r\n",
        b"\x16\x03\x01" * 50,
        b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhelloo",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000,
        answer(gzip.compress(bytes(10_000_000)), "Content-Encoding: gzip"),
        answer(BODY, "Content-Encoding: br"),
        answer(BODY, "Content-Encoding: identity", "Content-Encoding: gzip"),
    ],
)
def test_an_answer_that_is_no_image_is_not_fetched(page: bytes) -> None:
    fetch(pages={"/a.png": page}, max_bytes=20_000).refused("url_not_fetched")


def test_what_is_compressed_unasked_stays_so() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    assert fetch(pages={"/a.png": answer(bomb)}, max_bytes=len(bomb)).found == bomb


def chunked(*chunks: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def until_closed(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\n\r\n" + body


@pytest.mark.parametrize("form", [answer, chunked, until_closed])
def test_the_byte_limit_holds_however_the_body_comes(form: Any) -> None:
    assert fetch(pages={"/a.png": form(bytes(1000))}).found == bytes(1000)
    fetch(pages={"/a.png": form(bytes(1001))}).refused("image_too_large")


def test_the_smaller_of_the_two_limits_holds() -> None:
    assert fetch(pages={"/a.png": answer(bytes(100))}, settings={"max_bytes": 100}).found == bytes(100)
    fetch(pages={"/a.png": answer(bytes(101))}, settings={"max_bytes": 100}).refused("image_too_large")


def test_a_length_that_says_too_much_is_refused_before_the_body_is_read() -> None:
    async def only_says_so(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n")
        await reader.read()  # no byte of a body is ever sent; this ends when the client hangs up

    assert "1000" in fetch(pages={"/a.png": only_says_so}, settings={"timeout_s": 10_000}).refused("image_too_large")


def test_a_body_without_end_is_cut_off() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(until_closed(b""))
        while True:
            writer.write(bytes(10_000))
            await writer.drain()

    fetch(pages={"/a.png": endless}, settings={"timeout_s": 10_000}, seconds=10_000).refused("image_too_large")


def test_a_body_shorter_than_its_length_is_not_fetched() -> None:
    fetch(pages={"/a.png": answer(BODY)[:-1]}).refused("url_not_fetched")


def test_a_body_longer_than_its_length_ends_where_it_was_said_to() -> None:
    assert fetch(pages={"/a.png": answer(BODY) + bytes(5000)}).found == BODY


def test_a_body_in_crumbs_is_not_fetched() -> None:
    fetch(pages={"/a.png": chunked(*[b"x"] * 70_000)}, max_bytes=10**6, settings={"timeout_s": 60}).refused(
        "url_not_fetched"
    )


# Time


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:  # never silent for long, never done
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def drip_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize("page", [drip, drip_headers, silence])
@pytest.mark.parametrize("limit", [{"settings": {"timeout_s": 0.3}}, {"seconds": 0.3}])
def test_time_ends_for_the_whole_and_not_for_each_byte(page: Page, limit: dict[str, Any]) -> None:
    fetch(pages={"/a.png": page}, **limit).refused("deadline_exceeded")


def test_redirects_share_one_time() -> None:
    async def slow_redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(redirect("/a.png"))

    fetch(pages={"/a.png": slow_redirect}, settings={"timeout_s": 0.5}).refused("deadline_exceeded")


def test_a_deadline_that_is_over_dials_nothing() -> None:
    outcome = fetch(seconds=-1)
    outcome.refused("deadline_exceeded")
    assert outcome.wires.dialled == []


def test_a_look_up_that_never_ends_is_given_up() -> None:
    async def never(host: str) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    fetcher = Fetcher(FetchSettings.model_validate({**ALLOWED, "timeout_s": 0.1}), resolver=never)
    with pytest.raises(FetchError, match="deadline_exceeded"):
        asyncio.run(fetcher.fetch(URL, time.time() + 20))


def test_a_connection_that_is_given_up_in_the_handshake_is_closed() -> None:
    async def run() -> None:
        closed = asyncio.Event()

        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(1000):  # the client's hello, and then nothing until it hangs up
                pass
            writer.close()
            closed.set()

        listening = await asyncio.start_server(mute, "127.0.0.1", 0)
        wires = Wires(listening.sockets[0].getsockname()[1])
        settings = FetchSettings.model_validate({**ALLOWED, "timeout_s": 0.2})
        fetcher = Fetcher(settings, resolver=Names({HOST: [[PUBLIC]]}), ssl_context=trusting(), network=wires)
        with pytest.raises(FetchError, match="deadline_exceeded"):
            await fetcher.fetch(URL, time.time() + 20)
        async with asyncio.timeout(20):
            await closed.wait()
        listening.close()

    asyncio.run(run())
