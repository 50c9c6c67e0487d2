"""What the service does with four times the requests that it can answer. `python -m benchmarks.overload`

Three loads on one running service with the embedded model, everything on this machine:

1. one client, one request after the other: the unloaded service;
2. as many clients as there are places of admission, each asking again as soon as it is answered: capacity;
3. requests at four times that rate, at even intervals, whether or not earlier ones were answered: overload.

A refusal is timed twice: at the ingress, by the access log of its replica, and at the client, with the way
there through Serve's proxy. The client shares the machine's cores with the service, so its figures are upper bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from deployments.admission_settings import AdmissionSettings
from deployments.launch import free_port, running

_PICTURE = Path(__file__).parents[1] / "pipeline" / "tiny" / "demo.png"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_REFUSED = re.compile(r" POST /v1/segment 429 ([\d.]+)ms")


@dataclass
class Load:
    """What came back, over one load: seconds that each answer took, by status; `seconds` until the last of them."""

    began: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    answers: dict[int, list[float]] = field(default_factory=dict)

    def note(self, status: int, took: float) -> None:
        self.answers.setdefault(status, []).append(took)
        self.seconds = time.perf_counter() - self.began

    def of(self, status: int) -> list[float]:
        return self.answers.get(status, [])

    def share(self, status: int) -> float:
        return len(self.of(status)) / max(1, sum(map(len, self.answers.values())))


class Client:
    """HTTP/1.1 by hand over connections that are used again: the client must not be what is measured."""

    def __init__(self, url: str, body: bytes) -> None:
        at = urlsplit(url)
        self._host, self._port = at.hostname, at.port
        self._request = (
            f"POST /v1/segment HTTP/1.1\r\nhost: {at.netloc}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, load: Load) -> None:
        """One request, noted in `load`; status 0 for a connection that was lost."""
        began = time.perf_counter()
        try:
            reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
            writer.write(self._request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            await reader.readexactly(int(length[1]) if length else 0)
            status = int(head.split(b" ", 2)[1])
            self._idle.append((reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            status = 0
        load.note(status, time.perf_counter() - began)


async def closed(client: Client, clients: int, seconds: float) -> Load:
    """`clients`, each with one request under way all the time."""
    load = Load()

    async def one() -> None:
        while time.perf_counter() < load.began + seconds:
            await client.ask(load)

    await asyncio.gather(*(one() for _ in range(clients)))
    return load


async def opened(client: Client, rate: float, seconds: float) -> Load:
    """`rate` requests a second, come what may."""
    load = Load()
    asked = set()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(load.began + number / rate - time.perf_counter())
        asked.add(asyncio.create_task(client.ask(load)))
    await asyncio.gather(*asked)
    return load


def refusals_at_the_ingress() -> list[float]:
    """Seconds from a refused request's arrival at an ingress replica to its answer, by the replicas' access logs."""
    from ray._private import worker

    node: Any = worker._global_node  # there is no public name for the folder
    logs = Path(node.get_logs_dir_path()) / "serve"
    text = "".join(path.read_text() for path in logs.glob("replica_*ingress*.log"))
    return [float(found) / 1000 for found in _REFUSED.findall(text)]


def milliseconds(values: Sequence[float], percentile: float) -> str:
    return f"{1000 * float(np.percentile(values, percentile)):,.1f}" if values else "-"


async def measure(url: str, places: int, factor: float, seconds: float) -> None:
    body = {
        "image": {"type": "base64", "value": b64encode(_PICTURE.read_bytes()).decode()},
        "prompt": "red circle, star",
    }
    client = Client(url, json.dumps(body).encode())
    await closed(client, 2, 3)  # every process has its connections
    alone = await closed(client, 1, seconds / 2)
    full = await closed(client, places, seconds)
    capacity = len(full.of(200)) / full.seconds
    over = await opened(client, factor * capacity, seconds)
    at_ingress = refusals_at_the_ingress()

    def row(name: str, load: Load, asked: float | None = None) -> None:
        times = load.of(200)
        sent = sum(map(len, load.answers.values())) / load.seconds if asked is None else asked
        print(
            f"| {name} | {sent:.1f} | {len(times) / load.seconds:.1f} | {milliseconds(times, 50)} | "
            f"{milliseconds(times, 95)} | {load.share(429):.1%} |"
        )

    print(f"{os.cpu_count()} CPUs, load average {os.getloadavg()[0]:.1f}; {places} places of admission\n")
    print("| load | asked/s | answered/s | p50 ms | p95 ms | 429 |\n|---|---|---|---|---|---|")
    row("one client", alone)
    row(f"{places} clients", full)
    row(f"{factor:g} x capacity", over, factor * capacity)
    print("\n| refusals | number | p50 ms | p95 ms | p99 ms |\n|---|---|---|---|---|")
    each: list[tuple[str, list[float]]] = [("at the ingress", at_ingress), ("at the client", over.of(429))]
    for name, times in each:
        print(f"| {name} | {len(times)} | {' | '.join(milliseconds(times, part) for part in (50, 95, 99))} |")
    others = {status: len(times) for status, times in over.answers.items() if status not in (200, 429)}
    print(f"\nOther answers: {others or 'none'}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="of each load")
    parser.add_argument("--factor", type=float, default=4, help="overload, in capacities")
    parser.add_argument("--places", type=int, default=AdmissionSettings().max_requests, help="admission.max_requests")
    options = parser.parse_args()
    with running({"model": "tiny", "admission.max_requests": options.places}, {"port": free_port()}) as url:
        asyncio.run(measure(url, options.places, options.factor, options.seconds))


if __name__ == "__main__":
    main()
