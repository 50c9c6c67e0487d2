"""`AsyncClient`: the service's API on an event loop of asyncio."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from dataclasses import replace
from random import SystemRandom
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from deployments.client import calls, many
from deployments.client.address import is_loopback, service_key, service_url
from deployments.client.errors import DeadlineError, FaultError, UnavailableError
from deployments.client.exchange import ClientStats, Exchange
from deployments.client.fields import DetectOptions, MasksOptions, Prompt, SegmentOptions
from deployments.client.ids import KnownImages
from deployments.client.images import AnyImage
from deployments.client.many import Answer
from deployments.client.retry import Backoff, Clock
from pipeline import __version__
from pipeline.mask_result import MaskResult
from pipeline.result import Result

DEFAULT_URL = "http://127.0.0.1:8000"
MAX_ANSWER_BYTES = 2**29
_READY_S = 5.0
_REAL_CLOCK = Clock(time.monotonic, time.time, SystemRandom().random)  # seeded alike, all workers would wait alike


class AsyncClient:
    """Asks a running service, from coroutines; see `Client`, which has the same methods without `await`.

    Belongs to the event loop in which it is first used.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout_s: float = 60.0,
        attempts: int = 6,
        reuse_ids: bool = True,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        http: httpx.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[object]] | None = None,
    ) -> None:
        """As `Client`; `clock` and `sleep` are for tests."""
        address = service_url(url)
        self._url = str(address)
        self._exchange = Exchange(
            _http(address, service_key(key), http),
            timeout_s=calls.checked_timeout(timeout_s),
            backoff=Backoff(attempts),
            clock=clock or _REAL_CLOCK,
            sleep=sleep or asyncio.sleep,
            known=KnownImages() if reuse_ids else None,
            max_answer_bytes=max_answer_bytes,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"

    @property
    def stats(self) -> ClientStats:
        """Calls, attempts and resends so far."""
        return replace(self._exchange.stats)

    async def segment(self, image: AnyImage, prompt: Prompt, **options: Unpack[SegmentOptions]) -> Result:
        return await self._exchange.ask(calls.segment(prompt, options), image)

    async def detect(self, image: AnyImage, prompt: Prompt, **options: Unpack[DetectOptions]) -> Result:
        return await self._exchange.ask(calls.detect(prompt, options), image)

    async def masks(self, image: AnyImage, **options: Unpack[MasksOptions]) -> MaskResult:
        return await self._exchange.ask(calls.masks(options), image)

    async def overlay(self, image: AnyImage, prompt: Prompt, **options: Unpack[SegmentOptions]) -> bytes:
        return await self._exchange.ask(calls.overlay(prompt, options), image)

    def segment_many(
        self,
        images: Iterable[AnyImage] | AsyncIterable[AnyImage],
        prompt: Prompt,
        *,
        concurrency: int = 8,
        ordered: bool = True,
        **options: Unpack[SegmentOptions],
    ) -> AsyncGenerator[Answer, None]:
        """As `Client.segment_many`, for `async for`; `images` may be asynchronous.

        To leave the loop early and have all ended at that point, put the generator into `contextlib.aclosing`.
        """
        return many.on_the_loop(
            self.answer_each(prompt, options), images, many.checked_concurrency(concurrency), ordered
        )

    def answer_each(self, prompt: Prompt, options: SegmentOptions) -> many.Ask:
        """What `segment_many` does with each image. Raises, for options that are none, before an image is read."""
        if options.get("request_id") is not None:
            raise ValueError("many images are many requests: each gets an id of its own")
        call = calls.segment(prompt, options)
        return many.answering(lambda image: self._exchange.ask(calls.again(call), image))

    async def models(self, *, timeout_s: float | None = None) -> list[dict[str, Any]]:
        return await self._exchange.ask(calls.models(timeout_s))

    async def ready(self, *, timeout_s: float = _READY_S) -> bool:
        try:
            return await self._exchange.ask_once(calls.ready(timeout_s))
        except (UnavailableError, DeadlineError, FaultError):
            return False

    async def aclose(self) -> None:
        """Close the connections. What is under way fails."""
        await self._exchange.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _http(address: httpx.URL, key: str | None, transport: httpx.AsyncBaseTransport | None) -> httpx.AsyncClient:
    loopback = is_loopback(address.host)
    return httpx.AsyncClient(
        base_url=address,
        headers={"user-agent": f"text2mask/{__version__}"} | ({"authorization": f"Bearer {key}"} if key else {}),
        transport=transport,
        # The environment's proxy is for other machines; it could not reach this one.
        trust_env=not loopback,
        # Reading the system's certificates takes longer than a request, and here none is shown.
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if loopback and address.scheme == "http" else True,
        # As many connections as callers use at a time; each is kept for 5 seconds.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=5.0),
        follow_redirects=False,
    )
