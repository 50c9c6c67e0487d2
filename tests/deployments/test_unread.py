"""Bodies that nobody reads, on real sockets: the answer arrives, and nothing is read for ever. Clients that hang up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from deployments.auth_settings import AuthSettings
from deployments.http.unread import DRAINED_BYTES
from deployments.keys import issue
from tests.deployments.fakes import FakeStages
from tests.deployments.service import Service
from tests.deployments.test_arrival import SEGMENT, Held, until_cancelled

Connect = Callable[[], Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
SERVERS = ["h11", "httptools"]
MIB = bytes(2**20)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


@asynccontextmanager
async def serving(app: Any, protocol: Any) -> AsyncIterator[Connect]:
    """Connections to `app` behind uvicorn."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, http=protocol, lifespan="off", log_level="critical"))
        task = asyncio.create_task(server.serve([listening]))
        try:
            yield lambda: asyncio.open_connection(*listening.getsockname())
        finally:
            server.should_exit = server.force_exit = True
            await task


def locked() -> Any:
    """An application that refuses everybody before any body: nobody here has its key."""
    return Service(auth=AuthSettings(keys=(issue("owner")[1],))).app


def head(header: str) -> bytes:
    return f"POST /v1/segment HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{header}\r\n\r\n".encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, str]:
    """The status, and what becomes of the connection; the rest of the answer is read, too."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    await reader.readexactly(int(headers["content-length"]))
    return int(first.split()[1]), headers.get("connection", "")


async def write_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"%x\r\n%b\r\n" % (len(MIB), MIB))
        await writer.drain()


@pytest.mark.parametrize("protocol", SERVERS)
def test_an_endless_body_ends_with_its_refusal(protocol: str) -> None:
    async def test() -> None:
        async with serving(locked(), protocol) as connect:
            reader, writer = await connect()
            writer.write(head("transfer-encoding: chunked"))
            assert await answer(reader) == (401, "close")
            with pytest.raises(ConnectionError):
                await write_for_ever(writer)

    run(test())


@pytest.mark.parametrize("protocol", SERVERS)
def test_a_long_body_ends_with_its_refusal(protocol: str) -> None:
    async def test() -> None:
        async with serving(locked(), protocol) as connect:
            reader, writer = await connect()
            writer.write(head(f"content-length: {DRAINED_BYTES + 1}"))
            assert await answer(reader) == (401, "close")
            assert await reader.read() == b""  # the server hangs up, though the body never came

    run(test())


@pytest.mark.parametrize("protocol", SERVERS)
def test_who_writes_everything_before_reading_gets_the_answer_and_may_ask_again(protocol: str) -> None:
    async def test() -> None:
        async with serving(locked(), protocol) as connect:
            reader, writer = await connect()
            for _ in range(2):
                writer.write(head(f"content-length: {DRAINED_BYTES}"))
                for _ in range(DRAINED_BYTES // len(MIB)):
                    writer.write(MIB)
                    await writer.drain()
                assert await answer(reader) == (401, "")
            writer.close()

    run(test())


@pytest.mark.parametrize("protocol", SERVERS)
def test_a_long_body_that_was_read_leaves_the_connection_as_it_was(protocol: str) -> None:
    async def test() -> None:
        async with serving(Service().app, protocol) as connect:
            reader, writer = await connect()
            for _ in range(2):
                writer.write(head("transfer-encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(SEGMENT), SEGMENT))
                assert await answer(reader) == (200, "")
            writer.close()

    run(test())


@pytest.mark.parametrize("protocol", SERVERS)
@pytest.mark.parametrize("stage", ["detect", "decode"])
def test_a_client_that_hangs_up_takes_its_work_along(protocol: str, stage: str) -> None:
    async def test() -> None:
        held = Held(stage)
        async with serving(held.app, protocol) as connect:
            _, writer = await connect()
            writer.write(head(f"content-length: {len(SEGMENT)}") + SEGMENT)
            await held.begun.wait()
            writer.close()
            await until_cancelled(held.stages, stage)
            assert ("decode" in held.stages.calls) == (stage == "decode")
            assert stage not in held.stages.finished

    run(test())


@pytest.mark.parametrize("protocol", SERVERS)
def test_half_a_body_is_not_computed(protocol: str) -> None:
    async def test() -> None:
        stages = FakeStages()
        async with serving(Service(stages, max_body_s=0.2).app, protocol) as connect:
            reader, writer = await connect()
            writer.write(head(f"content-length: {len(SEGMENT)}") + SEGMENT[:100])
            assert await answer(reader) == (408, "close")
            assert await reader.read() == b""
            assert stages.calls == []

    run(test())
