"""Many images: order, bounds, failures among them, and leaving early."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from deployments.client import Client, ClientError, RefusedError
from deployments.client.background import Background
from deployments.client.ids import KnownImages
from deployments.client.many import Answer, answering, from_afar, on_the_loop
from tests.deployments.client.scripted_server import HOLD, scripted
from tests.deployments.client.test_client import answer
from tests.deployments.fakes import picture

PICTURE = picture()


class Gates:
    """Stands in for the service: an image is a number's text, and its result comes when the test opens its gate."""

    def __init__(self) -> None:
        self.open: dict[int, asyncio.Event] = {}
        self.began: list[int] = []
        self.cancelled: list[int] = []

    async def ask(self, image: Any) -> Any:
        self.began.append(image)
        try:
            await self.open.setdefault(image, asyncio.Event()).wait()
        except asyncio.CancelledError:
            self.cancelled.append(image)
            raise
        if image % 5 == 4:
            raise ClientError("overloaded", "a sentence")
        return image * 10

    def let(self, image: int) -> None:
        self.open.setdefault(image, asyncio.Event()).set()

    def answers(self, images: Any, concurrency: int = 8, ordered: bool = True) -> AsyncGenerator[Answer, None]:
        return on_the_loop(answering(self.ask), images, concurrency, ordered)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def run(test: Callable[[Gates], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test(Gates()))


def test_ordered_results_wait_for_the_first_and_no_more_than_the_window_is_read() -> None:
    async def test(gates: Gates) -> None:
        read: list[int] = []

        def source() -> Iterator[Any]:
            for number in range(100):
                read.append(number)
                yield number

        answers = gates.answers(source(), concurrency=3)
        first = asyncio.ensure_future(anext(answers))
        await settled()
        assert gates.began == [0, 1, 2]
        gates.let(2)
        gates.let(1)
        await settled()
        assert not first.done()
        assert read == [0, 1, 2]
        gates.let(0)
        assert (await first).index == 0
        assert [(await anext(answers)).result for _ in range(2)] == [10, 20]
        assert len(read) <= 6
        await answers.aclose()

    run(test)


def test_unordered_results_come_as_they_are_ready() -> None:
    async def test(gates: Gates) -> None:
        answers = gates.answers(range(10), concurrency=4, ordered=False)
        seen = []
        for number in (3, 0, 2, 1, 5, 4):
            gates.let(number)
            seen.append((await anext(answers)).index)
        assert seen == [3, 0, 2, 1, 5, 4]
        await answers.aclose()

    run(test)


def test_one_that_fails_is_an_answer_and_stops_nobody() -> None:
    async def test(gates: Gates) -> None:
        for number in range(10):
            gates.let(number)
        answers = [answer async for answer in gates.answers(range(10))]
        assert [answer.index for answer in answers if answer.error] == [4, 9]
        assert [answer.unwrap() for answer in answers if not answer.error] == [0, 10, 20, 30, 50, 60, 70, 80]
        with pytest.raises(ClientError, match="overloaded"):
            answers[4].unwrap()

    run(test)


def test_leaving_early_cancels_what_is_under_way() -> None:
    async def test(gates: Gates) -> None:
        gates.let(0)
        async with aclosing(gates.answers(range(100), concurrency=4)) as answers:
            async for answer in answers:
                assert answer.index == 0
                await settled()
                break
        assert gates.cancelled == gates.began[1:]
        assert len(asyncio.all_tasks()) == 1

    run(test)


def test_an_asynchronous_source_is_waited_for_beside_the_answers() -> None:
    async def test(gates: Gates) -> None:
        more = asyncio.Event()

        async def source() -> AsyncIterator[Any]:
            yield 0
            await more.wait()
            yield 1

        gates.let(0)
        gates.let(1)
        answers = gates.answers(source(), concurrency=4)
        assert (await anext(answers)).index == 0  # though the source has not gone on
        more.set()
        assert [answer.index async for answer in answers] == [1]

    run(test)


@pytest.mark.parametrize("ordered", [True, False])
def test_in_a_plain_loop(ordered: bool) -> None:
    with scripted(forever=answer()) as server, Client(server.url) as client:
        images: list[str | bytes] = [PICTURE, b"", "no such file", *[PICTURE] * 20]
        answers = list(client.segment_many(iter(images), "car", concurrency=3, ordered=ordered))
    assert sorted(answer.index for answer in answers) == list(range(23))
    if ordered:
        assert [answer.index for answer in answers] == list(range(23))
    failed = [answer for answer in answers if answer.error]
    assert [(answer.image, type(answer.error)) for answer in failed] == [("no such file", FileNotFoundError)]


def test_a_plain_loop_reads_no_more_than_its_window_and_hands_out_before_it_reads() -> None:
    read: list[int] = []

    def source() -> Iterator[bytes]:
        for number in range(50):
            read.append(number)
            yield PICTURE

    with scripted(forever=answer()) as server, Client(server.url) as client:
        for taken, _ in enumerate(client.segment_many(source(), "car", concurrency=3)):
            assert len(read) <= taken + 1 + 3
    assert len(read) == 50


def test_leaving_a_plain_loop_ends_requests_and_threads() -> None:
    before = threading.active_count()
    with scripted(answer(), forever=HOLD) as server:
        with Client(server.url) as client:
            for found in client.segment_many([PICTURE] * 9, "car", concurrency=1):
                assert found.result is not None
                break
            answers = client.segment_many([PICTURE] * 9, "car", concurrency=2)
            waiting = threading.Thread(target=lambda: pytest.raises(Exception, next, answers))  # noqa: B017
            waiting.start()
            assert server.held.wait(20)
        waiting.join(20)  # closing the client let it go
        assert not waiting.is_alive()
        held = threading.active_count() - before
        assert held <= 4  # the server's own: its door, and the connections
    assert len(server.received) <= 3


def test_leaving_a_plain_loop_cancels_what_is_under_way() -> None:
    async def nothing() -> None:
        await settled()

    gates, background = Gates(), Background()

    async def ask(image: Any) -> Any:
        if image == 2:
            gates.let(0)  # not before the window is full: what is ready is handed out before more is begun
        return await gates.ask(image)

    numbers: Any = range(100)
    answers = from_afar(background.submit, answering(ask), numbers, 3, True)
    assert next(answers).index == 0
    answers.close()
    background.run(settled())
    assert gates.began == [0, 1, 2]
    assert gates.cancelled == [1, 2]
    background.stop(nothing)


def test_options_are_checked_before_anything_is_read() -> None:
    read: list[int] = []

    def remembered(number: int) -> bytes:
        read.append(number)
        return PICTURE

    bad: list[dict[str, Any]] = [{"concurrency": 0}, {"request_id": "one-for-all"}, {"nms_threshold": float("inf")}]
    with Client() as client:
        for options in bad:
            with pytest.raises(ValueError, match=r"concurrency|id|JSON"):
                client.segment_many(map(remembered, range(3)), "car", **options)
        with pytest.raises(TypeError, match="no option"):
            client.segment_many([PICTURE], "car", box_treshold=0.1)  # type: ignore[call-arg]
    assert read == []


def test_an_answer_is_a_result_or_an_error() -> None:
    error = RefusedError("invalid_value", "a sentence")
    with pytest.raises(RefusedError) as caught:
        Answer(0, b"", error=error).unwrap()
    assert caught.value is error


def test_each_image_is_a_request_of_its_own() -> None:
    with scripted(forever=answer()) as server, Client(server.url) as client:
        list(client.segment_many([PICTURE] * 3, "car"))
        assert len({request.headers["x-request-id"] for request in server.received}) == 3


def test_of_many_images_those_asked_for_last_are_known() -> None:
    known = KnownImages(capacity=2)
    for name in (b"a", b"b"):
        known.remember((name, None), name.decode())
    assert known.find((b"a", None)) == "a"
    known.remember((b"c", None), "c")
    assert [known.find((name, None)) for name in (b"a", b"b", b"c")] == ["a", None, "c"]
