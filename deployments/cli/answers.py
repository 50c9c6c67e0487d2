"""What is said of each picture: a result, or why there is none; from models in this process, or from a service."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from deployments.cli.complaints import UsageError
from deployments.cli.inputs import Picture
from deployments.cli.query import Query
from pipeline.errors import StageError
from pipeline.image import ImageLimits, decode
from pipeline.prompt import Prompt
from pipeline.result import Result
from pipeline.stages import ImageSource

if TYPE_CHECKING:
    from deployments.client import Client, ClientError
    from pipeline.text_to_mask import TextToMask

MOST_BYTES = 2**29  # read of one file: a mistyped path to a disk image must not fill the memory
_OF_THE_PICTURE = (None, "image", "tile")  # the fields that may be at fault in one picture and not in another

Item = TypeVar("Item")
Done = TypeVar("Done")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a picture has no result, as the HTTP API says it: `{"code", "message", "param"}`."""

    code: str
    message: str
    param: str | None = "image"

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said of a picture; `image`, encoded or as pixels, is there with a result."""

    picture: Picture
    found: Result | Failure
    image: ImageSource = b""


Reader = Callable[[Picture, int], bytes | Failure]
"""As `read`: the encoded picture, of which no more than so many bytes are wanted. Asked in order, one at a time."""


def in_process(
    pictures: Iterable[Picture], query: Query, model: TextToMask, *, masks: bool, reader: Reader | None = None
) -> Iterator[Answer]:
    """Answers in order. The next picture is read and decoded while the model looks at one.

    Args:
        reader: for pictures that are no files; `read` where None.

    Raises:
        UsageError: the models refuse what is asked of every picture.
    """

    def load(picture: Picture) -> ImageSource | Failure:
        data = (reader or read)(picture, ImageLimits().max_bytes)
        if isinstance(data, Failure):
            return data
        try:
            return decode(data)
        except StageError as error:
            return Failure(error.code, error.message, error.param)

    for picture, loaded in ahead(load, pictures, 1):
        if isinstance(loaded, Failure):
            yield Answer(picture, loaded)
            continue
        try:
            result = model.predict(loaded, query.prompt, **query.fields, masks=masks)
        except StageError as error:
            if error.param not in _OF_THE_PICTURE:
                raise UsageError(f"{error.param}: {error.message}") from None
            yield Answer(picture, Failure(error.code, error.message, error.param))
        else:
            yield Answer(picture, result, loaded)


def from_service(
    pictures: Iterable[Picture],
    prompt: Prompt,
    fields: Mapping[str, Any],
    client: Client,
    concurrency: int,
    reader: Reader | None = None,
) -> Iterator[Answer]:
    """Answers in order, `concurrency` of them under way. `reader`: as for `in_process`.

    Raises:
        ClientError: there is no use in going on: no connection, no valid key, or a request that is refused whatever
            the picture.
    """
    from deployments.client import ClientError

    sent: deque[tuple[Picture, bytes | Failure]] = deque()  # and not answered yet, in order

    def readable() -> Iterator[bytes]:
        for picture in pictures:
            data = (reader or read)(picture, MOST_BYTES)
            sent.append((picture, data))
            if isinstance(data, bytes):
                yield data

    def unread() -> Iterator[Answer]:
        while sent and isinstance(failure := sent[0][1], Failure):
            yield Answer(sent.popleft()[0], failure)

    answers = client.segment_many(readable(), prompt, concurrency=concurrency, ordered=True, **fields)
    for answer in answers:
        yield from unread()
        picture, data = sent.popleft()
        assert isinstance(data, bytes)
        error = answer.error
        if error is None:
            yield Answer(picture, answer.unwrap(), data)
        elif isinstance(error, ClientError) and not hopeless(error):
            yield Answer(picture, Failure(error.code, error.message, error.param))
        else:
            raise error
    yield from unread()


def hopeless(error: ClientError) -> bool:
    """Whether it would meet every other picture as well."""
    from deployments.client import RefusedError, UnauthenticatedError, UnavailableError

    if isinstance(error, RefusedError) and error.status in (404, 405):
        return True
    whole = isinstance(error, RefusedError) and error.param not in _OF_THE_PICTURE
    return whole or isinstance(error, (UnauthenticatedError, UnavailableError))


def read(picture: Picture, most: int = MOST_BYTES) -> bytes | Failure:
    """The encoded picture. One byte more than `most` where there are more: enough for others to refuse it."""
    try:
        if picture.path is None:
            return sys.stdin.buffer.read(most + 1)
        with picture.path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        return Failure("image_unreadable", error.strerror or type(error).__name__)


def ahead(work: Callable[[Item], Done], items: Iterable[Item], workers: int) -> Iterator[tuple[Item, Done]]:
    """`work` of each item, in order, done by threads that are at most `workers` items ahead of whoever asks."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    under_way: deque[tuple[Item, Future[Done]]] = deque()
    try:
        for item in items:
            under_way.append((item, pool.submit(work, item)))
            if len(under_way) > workers:
                first, done = under_way.popleft()
                yield first, done.result()
        while under_way:
            first, done = under_way.popleft()
            yield first, done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
