"""Loads on a server: clients that ask again when answered, and requests that come whether or not others were answered.

The clients are threads of this process, on the same cores as the server; that holds for every arm.
"""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import httpx

from benchmarks.serving.material import cases

TIMEOUT_S = 30
OPEN_THREADS = 64  # requests under way at once, at most; one that finds none free is late, and counted as late


@dataclass
class Load:
    """What came back: seconds that each good answer took, how many others, seconds in all, CPU-seconds."""

    took: list[float] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0
    server_cpu_s: float = 0.0
    client_cpu_s: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.took) / self.seconds


# One for all clients: httpx else reads all certificates for each, 20 ms of CPU time, and nothing here is encrypted.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def client_of(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=TIMEOUT_S, verify=_NO_TLS, trust_env=False)


Ask = Callable[[httpx.Client, int], httpx.Response]


def ask_case(client: httpx.Client, number: int) -> httpx.Response:
    """The case of that number, the mix over and over; its bytes are new to the server."""
    mix = cases()
    return client.post(
        "/v1/segment", content=mix[number % len(mix)].body(), headers={"content-type": "application/json"}
    )


def measured(load: Load, server_cpu: Callable[[], float], threads: Sequence[threading.Thread], begin: float) -> Load:
    cpu, own = server_cpu(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.perf_counter() - begin
    load.server_cpu_s, load.client_cpu_s = server_cpu() - cpu, time.process_time() - own
    return load


def closed(url: str, clients: int, seconds: float, server_cpu: Callable[[], float], ask: Ask = ask_case) -> Load:
    """`clients`, each with one request under way all the time. Those under way at the end are waited for, and count."""
    load, number, lock = Load(), count(), threading.Lock()
    begin = time.perf_counter()

    def one() -> None:
        with client_of(url) as client:
            while time.perf_counter() < begin + seconds:
                sent = time.perf_counter()
                note(load, lock, ask, client, next(number), sent)

    return measured(load, server_cpu, [threading.Thread(target=one) for _ in range(clients)], begin)


def opened(
    url: str, rate: float, seconds: float, seed: int, server_cpu: Callable[[], float], ask: Ask = ask_case
) -> Load:
    """Poisson arrivals at `rate` a second; each is timed from when it was to be sent."""
    draw, due, at = random.Random(seed), [], 0.0
    while (at := at + draw.expovariate(rate)) < seconds:
        due.append(at)
    load, number, lock = Load(), count(), threading.Lock()
    begin = time.perf_counter()

    def one() -> None:
        with client_of(url) as client:
            while (mine := next(number)) < len(due):
                time.sleep(max(0.0, begin + due[mine] - time.perf_counter()))
                note(load, lock, ask, client, mine, begin + due[mine])

    return measured(load, server_cpu, [threading.Thread(target=one) for _ in range(OPEN_THREADS)], begin)


def note(load: Load, lock: threading.Lock, ask: Ask, client: httpx.Client, number: int, since: float) -> None:
    try:
        good = ask(client, number).status_code == 200
    except httpx.HTTPError:
        good = False
    took = time.perf_counter() - since
    with lock:
        if good:
            load.took.append(took)
        else:
            load.failed += 1
