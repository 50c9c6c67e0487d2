"""The client against a server on a real socket that answers by a script. Time is the test's: nobody sleeps."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import pickle
import re
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
from PIL import Image

from deployments.client import (
    AsyncClient,
    Client,
    ClientError,
    DeadlineError,
    FaultError,
    ImageId,
    ImageUrl,
    OverloadedError,
    RefusedError,
    UnauthenticatedError,
    UnavailableError,
)
from deployments.client.address import is_loopback
from deployments.client.retry import Clock
from pipeline import StageError
from pipeline.image import decode, from_pil
from pipeline.result import Result
from tests.deployments.client.scripted_server import (
    CLOSE,
    DRIP,
    HOLD,
    RESET,
    Answers,
    ScriptedServer,
    refusal,
    scripted,
)
from tests.deployments.fakes import picture

T = TypeVar("T")
PICTURE = picture()
RLE = {"format": "rle", "size": [20, 30], "counts": "\\9\\9"}
FOUND = {
    "class_id": 0,
    "label": "car",
    "score": 0.5,
    "text_score": 0.5,
    "box": [1, 2, 3, 4],
    "mask": RLE,
    "mask_score": 0.9,
    "area": 300,
}


def answer(image_id: str = "i1", count: int = 1, **headers: str) -> Answers:
    body = {
        "id": "x",
        "model": "tiny+tiny",
        "image": {"id": image_id, "width": 30, "height": 20},
        "detections": [FOUND] * count,
        "timings_ms": {"total": 1.0},
        "passes": 1,
        "removed": {},
        "warnings": [],
    }
    return Answers(200, json.dumps(body).encode(), headers)


class Time:
    """A clock for a client: it moves only by the client's own pauses."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.clock = Clock(lambda: self.now, lambda: 1e9 + self.now, lambda: 0.5)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def ask(
    server: ScriptedServer,
    work: Callable[[AsyncClient], Coroutine[Any, Any, T]],
    time: Time | None = None,
    **options: Any,
) -> T:
    time = time or Time()

    async def run() -> T:
        async with AsyncClient(server.url, clock=time.clock, sleep=time.sleep, **options) as client:
            return await work(client)

    return asyncio.run(run())


def segment(server: ScriptedServer, time: Time | None = None, **options: Any) -> Result:
    return ask(server, lambda client: client.segment(PICTURE, "car"), time, **options)


def refused(kind: type[ClientError], *script: Answers | str, time: Time | None = None, **options: Any) -> ClientError:
    with scripted(*script) as server:
        with pytest.raises(kind) as caught:
            segment(server, time, **options)
        assert len(server.received) == len(script)
        return caught.value


def test_the_request_is_a_form_with_the_bytes_as_they_are() -> None:
    with scripted(answer()) as server:
        result = ask(server, lambda client: client.segment(PICTURE, ["car", {"text": "a, b"}], nms="off", raw=False))
        request = server.received[0]
    assert (len(result), result.labels, result.image_id) == (1, ("car",), "i1")
    assert (request.method, request.path) == ("POST", "/v1/segment")
    assert PICTURE in request.body
    for name, value in (("prompt", b'["car", {"text": "a, b"}]'), ("nms", b"off"), ("raw", b"false")):
        assert re.search(rb'name="%s"\r\n\r\n%s\r\n' % (name.encode(), re.escape(value)), request.body)
    assert b"box_threshold" not in request.body  # a default is the server's
    assert request.headers["x-request-timeout-seconds"] == "60.000"
    assert request.headers["accept-encoding"] == "identity"
    assert "authorization" not in request.headers


def test_one_id_for_all_attempts_and_the_time_that_is_left() -> None:
    time = Time()
    with scripted(refusal(429, "overloaded", retry_after="2"), RESET, CLOSE, Answers(503), answer()) as server:
        segment(server, time, timeout_s=10)
        ids = {request.headers["x-request-id"] for request in server.received}
        left = [float(request.headers["x-request-timeout-seconds"]) for request in server.received]
    assert len(ids) == 1
    assert time.pauses == [2.25, 0.5, 1.0, 2.0]
    assert left == [10, 7.75, 7.25, 6.25, 4.25]


def test_reading_the_image_is_part_of_the_time(tmp_path: Path) -> None:
    time = Time()
    (tmp_path / "a.png").write_bytes(PICTURE)

    class Slow(os.PathLike[str]):
        def __fspath__(self) -> str:
            time.now = 4
            return str(tmp_path / "a.png")

    with scripted(answer()) as server:
        ask(server, lambda client: client.segment(Slow(), "car"), time, timeout_s=10)
        assert server.received[0].headers["x-request-timeout-seconds"] == "6.000"


@pytest.mark.parametrize(
    "entry",
    [
        RESET,
        CLOSE,
        Answers(cut=10),
        Answers(body=b"{" * 1000, cut=200),
        Answers(503, b"No replicas", {"content-type": "text/plain"}),
        Answers(500, b"Internal Server Error", {"content-type": "text/plain"}),
        Answers(502, b"<html>Bad Gateway</html>", {"content-type": "text/html"}),
        refusal(503, "not_ready", retry_after="1"),
    ],
)
def test_what_breaks_once_is_not_seen(entry: Answers | str) -> None:
    with scripted(entry, answer()) as server:
        assert len(segment(server)) == 1
        assert len(server.received) == 2


def test_attempts_are_bounded_and_the_last_error_is_raised() -> None:
    error = refused(OverloadedError, *[refusal(429, "rate_limited", "too often")] * 3, attempts=3)
    assert (error.code, error.message, error.status) == ("rate_limited", "too often", 429)
    error = refused(UnavailableError, RESET, RESET, attempts=2)
    assert error.code == "connection_failed"
    assert error.status is None


def test_nobody_there() -> None:
    with scripted() as server:
        pass
    time = Time()
    with pytest.raises(UnavailableError, match="connection_failed"):
        segment(server, time)
    assert len(time.pauses) == 5
    assert ask(server, lambda client: client.ready()) is False


@pytest.mark.parametrize("entry", [HOLD, DRIP])
def test_a_server_that_does_not_come_to_an_end_does_not_hold_the_caller(entry: str) -> None:
    with scripted(entry) as server, Client(server.url, timeout_s=0.3) as client:
        with pytest.raises(DeadlineError, match=r"its 0\.3 seconds \(deadline_exceeded; request call-7\)"):
            client.segment(PICTURE, "car", request_id="call-7")
        assert server.held.is_set()


def test_time_over_names_the_failure_before() -> None:
    error = refused(DeadlineError, *[refusal(503, "not_ready")] * 5, timeout_s=0.2)
    assert isinstance(error, TimeoutError)
    assert isinstance(error.__cause__, UnavailableError)


def test_the_services_own_deadline() -> None:
    assert refused(DeadlineError, refusal(408, "deadline_exceeded", "over")).status == 408
    plain = refused(DeadlineError, Answers(408, b"Request timed out after 1s.", {"content-type": "text/plain"}))
    assert "Request timed out after 1s." in str(plain)


def test_refusals_say_what_the_service_said() -> None:
    error = refused(RefusedError, refusal(422, "invalid_value", "must be at most 1", "box_threshold"))
    assert (error.code, error.message, error.param) == ("invalid_value", "must be at most 1", "box_threshold")
    assert str(error) == f"box_threshold: must be at most 1 (invalid_value; request {error.request_id})"
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.status) == (type(error), str(error), 422)
    assert type(refused(UnauthenticatedError, refusal(401, "unauthenticated"))) is UnauthenticatedError
    assert refused(FaultError, refusal(500, "internal")).code == "internal"


def test_pages_of_others_are_not_echoed() -> None:
    html = Answers(413, b"<html>" + b"secret " * 100_000, {"content-type": "text/html"})
    error = refused(RefusedError, html)
    assert (error.code, error.message) == ("http_413", "status 413, and not from the service itself")
    loud = refused(RefusedError, Answers(404, b"no\x1b[2Jway\n" * 9999, {"content-type": "text/plain"}))
    assert "\x1b" not in str(loud)
    assert len(str(loud)) < 500


def test_redirects_are_named_and_not_followed() -> None:
    with scripted() as elsewhere:
        error = refused(RefusedError, Answers(307, headers={"location": f"{elsewhere.url}/v1/segment"}), key="a-key")
        assert elsewhere.received == []
    assert error.code == "redirected"
    assert "127.0.0.1" in error.message


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"detections": [1]}', b"[" * 100_000, b"\xff\xfe", b'{"image": {"width": 1e999}}'],
)
def test_answers_of_something_else(body: bytes) -> None:
    assert refused(FaultError, Answers(200, body)).code == "answer_not_understood"


def test_answers_that_are_too_long_or_packed() -> None:
    assert refused(FaultError, Answers(200, b" " * 5000), max_answer_bytes=4999).code == "answer_too_large"
    packed = Answers(200, answer().body, {"content-encoding": "gzip"})
    assert refused(FaultError, packed).code == "answer_not_understood"
    with scripted(answer()) as server:
        assert len(segment(server, max_answer_bytes=len(answer().body))) == 1


def test_the_key_goes_to_the_service_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with scripted(answer(), answer(), answer(), refusal(401, "unauthenticated"), CLOSE) as server:
        segment(server, key="argument-key")
        monkeypatch.setenv("TEXT2MASK_KEY", "environment-key")
        segment(server)
        segment(server, key="")
        sent = [request.headers.get("authorization") for request in server.received]
        assert sent == ["Bearer argument-key", "Bearer environment-key", None]
        for _ in range(2):
            with pytest.raises(ClientError) as caught:
                segment(server, attempts=1)
            assert (
                "environment-key"
                not in f"{caught.value} {caught.value!r} {caught.value.__dict__} {caught.value.__cause__!r}"
            )
        assert "environment-key" not in repr(Client(server.url)) + repr(AsyncClient(server.url))
    assert "environment-key" not in caplog.text
    with pytest.raises(ValueError, match="printable ASCII") as bad:
        Client(key="two words")
    assert "two words" not in str(bad.value)


def test_proxies_of_the_environment_are_for_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(answer(), forever=refusal(503, "not_ready")) as proxy, scripted(answer()) as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert len(segment(server)) == 1
        assert proxy.received == []
        server.url = "http://text2mask.test:8000/behind/"
        assert len(segment(server)) == 1
        assert proxy.received[0].path == "http://text2mask.test:8000/behind/v1/segment"
    assert [is_loopback(host) for host in ("localhost", "a.localhost", "127.8.8.8", "[::1]", "::1")] == [True] * 5
    assert [is_loopback(host) for host in ("localhost.test", "10.0.0.1", "127.test", "")] == [False] * 4


def test_ids_are_reused_and_bytes_sent_once_more_where_they_are_gone() -> None:
    gone = refusal(404, "image_not_cached", param="image.value")

    async def work(client: AsyncClient) -> None:
        for _ in range(3):
            await client.segment(PICTURE, "car")
        await client.masks(PICTURE, boxes=np.array([[1, 2, 3, 4]]))
        await client.segment(picture((9, 9)), "car")
        stats = client.stats
        assert (stats.calls, stats.attempts, stats.retries, stats.reused_ids, stats.resent) == (5, 6, 0, 3, 1)

    time = Time()
    with scripted(answer("i1"), answer("i1"), gone, answer("i2"), answer("i2"), answer("i3")) as server:
        ask(server, work, time, attempts=1)
        assert [request.asked_by_id for request in server.received] == [None, "i1", "i1", None, "i2", None]
        assert [PICTURE in request.body for request in server.received] == [True, False, False, True, False, False]
        assert len({request.headers["x-request-id"] for request in server.received[2:4]}) == 1
    assert time.pauses == []


def test_an_id_that_is_gone_is_forgotten_though_the_bytes_fail_too() -> None:
    async def work(client: AsyncClient) -> None:
        await client.segment(PICTURE, "car")
        with pytest.raises(RefusedError):
            await client.segment(PICTURE, "car")
        await client.segment(PICTURE, "car")

    with scripted(answer(), refusal(404, "image_not_cached"), refusal(422, "image_undecodable"), answer()) as server:
        ask(server, work)
        assert [request.asked_by_id for request in server.received] == [None, "i1", None, None]


def test_what_the_service_does_not_keep_is_not_asked_for_by_id() -> None:
    async def work(client: AsyncClient) -> None:
        await client.detect(PICTURE, "car")
        await client.segment(PICTURE, "car")  # finds nothing
        await client.segment(PICTURE, "car")
        await client.segment(PICTURE, "car", model="other")

    with scripted(answer(), answer(count=0), answer(), answer()) as server:
        ask(server, work)
        assert [request.asked_by_id for request in server.received] == [None] * 4
    with scripted(answer(), answer()) as server:
        ask(server, lambda client: _twice(client), reuse_ids=False)
        assert [request.asked_by_id for request in server.received] == [None] * 2


async def _twice(client: AsyncClient) -> None:
    await client.segment(PICTURE, "car")
    await client.segment(PICTURE, "car")


def test_images_by_reference() -> None:
    with scripted(answer(), answer()) as server:
        ask(server, lambda client: client.segment(ImageUrl("https://a.test/b.png"), "car"))
        ask(server, lambda client: client.segment(ImageId("0" * 64), "car"))
        sent = [json.loads(request.body)["image"] for request in server.received]
    assert sent == [{"type": "url", "value": "https://a.test/b.png"}, {"type": "id", "value": "0" * 64}]


def sent_image(image: Any) -> bytes:
    """The bytes that were sent for `image`."""
    with scripted(answer()) as server:
        ask(server, lambda client: client.segment(image, "car"))
        body = server.received[0].body
    return body.split(b"octet-stream\r\n\r\n", 1)[1].rsplit(b"\r\n--", 1)[0]


def test_a_pipe_and_a_device_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with Client("http://127.0.0.1:9") as client:
        for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
            with pytest.raises(OSError, match="not a file|directory"):
                client.segment(path, "car")


def test_every_kind_of_image_arrives_as_it_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PICTURE)
    for given in (PICTURE, path, str(path), bytearray(PICTURE)):
        assert sent_image(given) == PICTURE
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    np.testing.assert_array_equal(decode(sent_image(pixels)), pixels)
    turned = Image.fromarray(pixels)
    turned.getexif()[0x0112] = 6  # a viewer turns it by a quarter
    arrived = decode(sent_image(turned))
    assert arrived.shape == (5, 7, 3)
    np.testing.assert_array_equal(arrived, np.rot90(pixels, -1))
    for mode in ("RGBA", "L", "P", "1", "CMYK", "I;16"):
        image = Image.new(mode, (4, 3), 1)
        np.testing.assert_array_equal(decode(sent_image(image)), from_pil(image))


def test_what_cannot_be_sent_never_leaves() -> None:
    with scripted() as server:
        for image, kind in (
            ("https://a.test/b.png", ValueError),
            ("no such file", FileNotFoundError),
            (np.zeros((3, 4)), StageError),
            (None, TypeError),
            (7, TypeError),
        ):
            with pytest.raises(kind):
                ask(server, lambda client, image=image: client.segment(image, "car"))  # type: ignore[misc]
        for options, kind in (
            ({"box_treshold": 0.1}, TypeError),
            ({"box_threshold": float("nan")}, ValueError),
            ({"timeout_s": 0}, ValueError),
            ({"timeout_s": float("inf")}, ValueError),
            ({"request_id": "a\r\nb"}, ValueError),
        ):
            with pytest.raises(kind):
                ask(server, lambda client, options=options: client.segment(PICTURE, "car", **options))  # type: ignore[misc]
        assert server.received == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8000",
        "ftp://a",
        "http://",
        "http://u:p@a",
        "http://a/?b",
        "http://a/#b",
        "http://a:99999",
        "http://a\n",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match="address") as caught:
        Client(url)
    assert "u:p" not in str(caught.value)


def test_threads_share_one_client_and_nothing_is_left_when_it_is_closed() -> None:
    before = set(threading.enumerate())
    with scripted(forever=answer()) as server:
        with Client(server.url) as client:
            results: list[int] = []
            threads = [
                threading.Thread(target=lambda: results.append(len(client.segment(PICTURE, "car")))) for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
            assert results == [1] * 8
            assert client.stats.calls == 8
        with pytest.raises(RuntimeError, match="closed"):
            client.segment(PICTURE, "car")
        client.close()
        forgotten = Client(server.url)
        assert len(forgotten.segment(PICTURE, "car")) == 1
        del forgotten
        gc.collect()
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert [name for name in left if "_serve" not in name] == []  # those are the server's


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_transport_of_the_callers_own_is_not_taken_through_a_fork() -> None:
    with scripted(forever=answer()) as server, Client(server.url, http=httpx.AsyncHTTPTransport()) as client:
        client.segment(PICTURE, "car")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                client.segment(PICTURE, "car", timeout_s=20)
            except RuntimeError as error:
                code = 0 if "make one after" in str(error) else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert len(client.segment(PICTURE, "car")) == 1


def test_a_forked_process_has_a_connection_of_its_own() -> None:
    with scripted(forever=answer()) as server, Client(server.url) as client:
        client.segment(PICTURE, "car")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = 0 if len(client.segment(PICTURE, "car", timeout_s=20)) == 1 else 1
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert len(client.segment(PICTURE, "car")) == 1
