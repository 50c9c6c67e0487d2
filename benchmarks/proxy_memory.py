"""What large, slow and stalled requests cost in front of the service: `python -m benchmarks.proxy_memory`. Linux only.

Serve's proxy takes a request before any code of ours sees it. Each case is sent to the service itself, and with
`--front` to a front proxy (configs/nginx.conf) too. The columns:

- Serve's proxy, ingress, front: their highest memory (of all processes of the front together) above that just before
  the case, in MB (1e6 bytes; Pss of smaps_rollup, every 50 ms). left: what Serve's proxy still had of it 5 s later.
- answers: how many connections got which status (`-`: none); answered: seconds until the last of these.
- held: seconds until the last connection was through, or closed from the other side; `> n`: still open after n seconds,
  when the client gave up.

Start the service in another terminal: `text2mask serve --port 8231`. What a process took once it mostly keeps and need
not take again: the most shows where the service is fresh, so with `--cases` and `--to` one row at a time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.process_memory import Watch, ingress_beside, listeners

MB = 1_000_000
PIECE = bytes(MB)
UPLOAD = 32 * 2**20  # the largest image that the service takes
GROUPS = ("proxy", "ingress", "front")
SETTLE_S = 5.0
Pieces = Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True)
class Case:
    """`clients` connections at once, each of which sends `pieces` and is given up after `patience_s`."""

    name: str
    clients: int
    patience_s: float
    pieces: Pieces


@dataclass(frozen=True)
class Outcome:
    """What one client saw, in seconds from the first byte; None where it did not come."""

    status: str
    answered_s: float | None
    closed_s: float | None


def head(*fields: str) -> bytes:
    lines = ("POST /v1/segment HTTP/1.1", "Host: service", *fields)
    return "".join(f"{line}\r\n" for line in lines).encode()


async def announced(size: int = 300 * MB) -> AsyncIterator[bytes]:
    yield head("Content-Type: application/json", f"Content-Length: {size}") + b"\r\n"
    for _ in range(size // MB):
        yield PIECE


async def chunked() -> AsyncIterator[bytes]:
    yield head("Content-Type: application/json", "Transfer-Encoding: chunked") + b"\r\n"
    for _ in range(300):
        yield b"%x\r\n%b\r\n" % (MB, PIECE)
    yield b"0\r\n\r\n"


def form() -> tuple[bytes, bytes]:
    """A multipart form around an image of `UPLOAD` bytes: all that comes before it, and all that comes after it."""
    part = '--limit\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n'
    before = part.format("prompt", "") + "car\r\n" + part.format("image", '; filename="a"')
    after = b"\r\n--limit--\r\n"
    length = len(before) + UPLOAD + len(after)
    fields = head("Content-Type: multipart/form-data; boundary=limit", f"Content-Length: {length}")
    return fields + b"\r\n" + before.encode(), after


async def upload() -> AsyncIterator[bytes]:
    before, after = form()
    yield before
    for _ in range(32):
        yield bytes(2**20)
    yield after


async def stalled_upload() -> AsyncIterator[bytes]:
    before, _ = form()
    yield before
    for _ in range(32):
        yield bytes(2**20)


async def drip() -> AsyncIterator[bytes]:
    yield head("Content-Type: application/json", "Content-Length: 1000") + b"\r\n"
    for _ in range(30):
        yield b" "
        await asyncio.sleep(1)


async def half_a_header() -> AsyncIterator[bytes]:
    yield head("Content-Type: application/json")


CASES = (
    Case("300 MB with Content-Length", 1, 120, announced),
    Case("300 MB chunked", 1, 120, chunked),
    Case("20 uploads of 32 MiB at once", 20, 120, upload),
    Case("20 uploads of 32 MiB that stall before the end", 20, 60, stalled_upload),
    Case("a body of 1 byte/s, for 30 s", 1, 60, drip),
    Case("200 connections that stall in their headers", 200, 75, half_a_header),
)


async def ask(host: str, port: int, case: Case) -> Outcome:
    """One client. It sends all it has, whatever it is told, until the other side closes."""
    reader, writer = await asyncio.open_connection(host, port)
    start = time.perf_counter()
    status, answered, closed = "-", None, None
    sent = asyncio.Event()

    async def send() -> None:
        with contextlib.suppress(OSError):  # closed from the other side: what `read` finds
            async for piece in case.pieces():
                writer.write(piece)
                await writer.drain()
        sent.set()

    async def read() -> None:
        nonlocal status, answered, closed
        with contextlib.suppress(OSError):
            line = await reader.readline()
            if line:
                status, answered = line.split()[1].decode(), time.perf_counter() - start
                through = [asyncio.create_task(task) for task in (sent.wait(), reader.read())]
                await asyncio.wait(through, return_when=asyncio.FIRST_COMPLETED)
                for task in through:
                    task.cancel()
                await asyncio.gather(*through, return_exceptions=True)
        closed = time.perf_counter() - start

    sender = asyncio.create_task(send())
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(read(), case.patience_s)
    sender.cancel()
    writer.transport.abort()
    return Outcome(status, answered, closed)


async def run(case: Case, url: str, groups: dict[str, list[int]]) -> str:
    """One row of the table."""
    target = urlsplit(url)
    assert target.hostname and target.port
    with Watch(groups) as watch:
        asked = (ask(target.hostname, target.port, case) for _ in range(case.clients))
        outcomes = await asyncio.gather(*asked)
    await asyncio.sleep(SETTLE_S)
    left = watch.now()["proxy"] - watch.before["proxy"]
    rises = [f"{watch.peak[name] - watch.before[name]:.0f}" if name in groups else "" for name in GROUPS]
    answers = ", ".join(f"{count} x {status}" for status, count in Counter(one.status for one in outcomes).items())
    answered = [one.answered_s for one in outcomes if one.answered_s is not None]
    held = f"> {case.patience_s:.0f}"
    if all(one.closed_s is not None for one in outcomes):
        held = f"{max(one.closed_s or 0 for one in outcomes):.1f}"
    return " | ".join([*rises, f"{left:.0f}", answers, f"{max(answered):.1f}" if answered else "-", held])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8231", help="of the service itself")
    parser.add_argument("--front", help="of the front proxy, such as http://127.0.0.1:8080")
    parser.add_argument("--cases", default="", help="only those whose name contains this")
    parser.add_argument("--to", choices=("service", "front"), help="only this one")
    args = parser.parse_args()
    groups = {"proxy": listeners(urlsplit(args.url).port or 80)}
    groups["ingress"] = [pid for proxy in groups["proxy"] for pid in ingress_beside(proxy)]
    if args.front:
        groups["front"] = listeners(urlsplit(args.front).port or 80)
    if len(groups["proxy"]) != 1 or len(groups["ingress"]) != 1 or not groups.get("front", [0]):
        parser.error(f"needs one Serve proxy, one ingress replica, and a front where one is named; found {groups}")
    print("| case | sent to | Serve's proxy | ingress | front | left | answers | answered, s | held, s |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for case in CASES:
        for name, url in (("service", args.url), ("front", args.front)):
            if url and args.cases in case.name and args.to in (None, name):
                print(f"| {case.name} | {name} | {asyncio.run(run(case, url, groups))} |", flush=True)


if __name__ == "__main__":
    main()
