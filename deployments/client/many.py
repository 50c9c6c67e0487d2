"""Many images, a bounded number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from deployments.client.images import AnyImage
from pipeline.result import Result


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one of many images: `result`, or `error`.

    Attributes:
        index: of the image in the input, from 0.
        image: as it was given.
        error: `ClientError`, or what kept the image from being read: `OSError`, `ValueError` and others.
    """

    index: int
    image: AnyImage
    result: Result | None = None
    error: Exception | None = None

    def unwrap(self) -> Result:
        """The result. Raises the error where there is none."""
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


Ask = Callable[[int, AnyImage], Coroutine[Any, Any, Answer]]


def answering(ask: Callable[[AnyImage], Coroutine[Any, Any, Result]]) -> Ask:
    """`ask`, with its errors as answers."""

    async def answer(index: int, image: AnyImage) -> Answer:
        try:
            return Answer(index, image, result=await ask(image))
        except Exception as error:  # also what an image's own code raises: one image is no reason to stop the others
            return Answer(index, image, error=error)

    return answer


def checked_concurrency(concurrency: int) -> int:
    """Raises ValueError below 1."""
    if concurrency < 1:
        raise ValueError("concurrency must be at least 1")
    return concurrency


def from_afar(
    submit: Callable[[Coroutine[Any, Any, Answer]], Future[Answer]],
    ask: Ask,
    images: Iterable[AnyImage],
    concurrency: int,
    ordered: bool,
) -> Generator[Answer, None, None]:
    """Answers of coroutines that run elsewhere. `images` is read here, one by one, as room is made.

    At most `concurrency` are under way or wait to be taken. What is ready is handed out before another image is read:
    a source may be slow.
    """
    pending: dict[Future[Answer], None] = {}  # a set in order
    source = enumerate(images)
    more = True

    def ready() -> Future[Answer] | None:
        candidates = list(pending)[:1] if ordered else list(pending)
        return next((future for future in candidates if future.done()), None)

    try:
        while more or pending:
            future = ready()
            if future is None and more and len(pending) < concurrency:
                item = next(source, None)
                if item is None:
                    more = False
                else:
                    pending[submit(ask(*item))] = None
                continue
            if future is None:
                wait(list(pending)[:1] if ordered else pending, return_when=FIRST_COMPLETED)
                continue
            del pending[future]
            yield future.result()
    finally:
        for future in pending:
            future.cancel()


async def on_the_loop(
    ask: Ask, images: Iterable[AnyImage] | AsyncIterable[AnyImage], concurrency: int, ordered: bool
) -> AsyncGenerator[Answer, None]:
    """The same on an event loop. `images` may be asynchronous; then it is waited for beside the answers."""
    pending: dict[asyncio.Task[Answer], None] = {}
    source = _numbered(images)
    coming: asyncio.Task[tuple[int, AnyImage] | None] | None = None
    more = True

    def ready() -> asyncio.Task[Answer] | None:
        candidates = list(pending)[:1] if ordered else list(pending)
        return next((task for task in candidates if task.done()), None)

    try:
        while more or pending:
            done = ready()
            if done is not None:
                del pending[done]
                yield done.result()
                continue
            if coming is None and more and len(pending) < concurrency:
                coming = asyncio.ensure_future(_next(source))
            waited = list(pending)[:1] if ordered else list(pending)
            await asyncio.wait([*waited, *([] if coming is None else [coming])], return_when=asyncio.FIRST_COMPLETED)
            if coming is not None and coming.done():
                item, coming = coming.result(), None
                if item is None:
                    more = False
                else:
                    pending[asyncio.ensure_future(ask(*item))] = None
    finally:
        left = [*pending, *([] if coming is None else [coming])]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


async def _next(source: AsyncIterator[tuple[int, AnyImage]]) -> tuple[int, AnyImage] | None:
    return await anext(source, None)


async def _numbered(images: Iterable[AnyImage] | AsyncIterable[AnyImage]) -> AsyncIterator[tuple[int, AnyImage]]:
    if isinstance(images, AsyncIterable):
        index = 0
        async for image in images:
            yield index, image
            index += 1
    else:
        for item in enumerate(images):
            yield item
