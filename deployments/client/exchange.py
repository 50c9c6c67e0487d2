"""One call from its question to its result: follows the steps of `retry`, sends, waits, and keeps count."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx

from deployments.client.answers import Reply
from deployments.client.calls import Call
from deployments.client.errors import ClientError, FaultError
from deployments.client.ids import KnownImages
from deployments.client.images import AnyImage, Upload, read_image
from deployments.client.retry import Attempt, Backoff, Clock, Pause, attempts, out_of_time
from deployments.client.sending import send
from deployments.client.wire import Outgoing, Source, call_headers, content_of
from deployments.image_ids import ImageId

T = TypeVar("T")
_LONG = 2**18  # bytes of an answer that is read in a thread: polygons of many masks take seconds


@dataclass(slots=True)
class ClientStats:
    """What a client has done so far.

    Attributes:
        calls: made; not counting `ready`.
        attempts: requests sent for them.
        retries: of these, repeated after a failure.
        reused_ids: of these, with an image's id in place of its bytes.
        resent: of these, with the bytes after the id was not known any more.
    """

    calls: int = 0
    attempts: int = 0
    retries: int = 0
    reused_ids: int = 0
    resent: int = 0


class Exchange:
    """Asks one service.

    Args:
        known: ids of images; None to send bytes each time.
        sleep: waits so many seconds.
        max_answer_bytes: of an answer.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        timeout_s: float,
        backoff: Backoff,
        clock: Clock,
        sleep: Callable[[float], Awaitable[object]],
        known: KnownImages | None,
        max_answer_bytes: int,
    ) -> None:
        self.http = http
        self.stats = ClientStats()
        self._timeout_s = timeout_s
        self._backoff = backoff
        self._clock = clock
        self._sleep = sleep
        self._known = known
        self._max_answer_bytes = max_answer_bytes

    async def ask(self, call: Call[T], image: AnyImage | None = None) -> T:
        """The result of `call`; `image` is for those that take one.

        Raises:
            ClientError: the service gave none. Of an image that cannot be read, as `read_image`.
        """
        self.stats.calls += 1
        started = self._clock.now()
        timeout_s = self._timeout_s if call.timeout_s is None else call.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                source = await asyncio.to_thread(read_image, image) if call.takes_image else None
        except TimeoutError:
            raise out_of_time(timeout_s, call.request_id) from None
        key = (source.digest, call.model) if isinstance(source, Upload) else None
        reply = await self._attempts(call, source, timeout_s, started)
        result = await self._read(call, reply)
        image_id = call.keeps(result)
        if self._known is not None and key is not None and image_id is not None:
            self._known.remember(key, image_id)
        return result

    async def ask_once(self, call: Call[T]) -> T:
        """As `ask`, without an image, without a second attempt, and not counted."""
        assert call.timeout_s is not None
        steps = attempts(
            call.timeout_s, replace(self._backoff, attempts=1), self._clock, image_id=None, request_id=call.request_id
        )
        step = next(steps)
        assert isinstance(step, Attempt)
        try:
            steps.send(await self._send(call, None, step))
        except StopIteration as done:
            return await self._read(call, done.value)
        raise AssertionError("one attempt is all there is")

    async def _attempts(self, call: Call[Any], source: Source | None, timeout_s: float, started: float) -> Reply:
        key = (source.digest, call.model) if isinstance(source, Upload) else None
        image_id = None if key is None or self._known is None else self._known.find(key)
        steps = attempts(
            timeout_s,
            self._backoff,
            self._clock,
            image_id=image_id,
            request_id=call.request_id,
            spent_s=self._clock.now() - started,
        )
        outcome: Reply | ClientError | None = None
        last: Attempt | None = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as done:
                reply: Reply = done.value
                return reply
            if isinstance(step, Pause):
                outcome = None
                await self._sleep(step.seconds)
                continue
            self._count(step, last)
            if key is not None and self._known is not None and image_id is not None and step.image_id is None:
                self._known.forget(key, image_id)
            outcome, last = await self._send(call, source, step), step

    def _count(self, step: Attempt, last: Attempt | None) -> None:
        self.stats.attempts += 1
        self.stats.retries += last is not None and step.number > last.number
        self.stats.reused_ids += step.image_id is not None
        self.stats.resent += last is not None and last.image_id is not None and step.image_id is None

    async def _send(self, call: Call[Any], source: Source | None, step: Attempt) -> Reply | ClientError | None:
        image = source if step.image_id is None else ImageId(step.image_id)
        content = {} if image is None else content_of(call.fields, image)
        headers = call_headers(call.accept, call.request_id, step.left_s)
        outgoing = Outgoing(call.method, call.path, headers, content)
        return await send(self.http, outgoing, step.left_s, self._max_answer_bytes)

    async def _read(self, call: Call[T], reply: Reply) -> T:
        try:
            return await asyncio.to_thread(call.read, reply) if len(reply.body) > _LONG else call.read(reply)
        except ValueError as error:
            raise FaultError(
                "answer_not_understood",
                "the answer is none of this service's; is the address right?",
                status=reply.status,
                request_id=call.request_id,
            ) from error
