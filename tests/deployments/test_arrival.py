"""Bodies that drip, clients that leave, time that is over: what is not computed for them, counted at the stages."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from deployments.http.answers import CLIENT_CLOSED_REQUEST
from deployments.http.arrival import Arrival
from tests.deployments.asgi_calls import Call
from tests.deployments.fakes import FakeStages, base64
from tests.deployments.service import PICTURE, Service, refusal

SEGMENT = json.dumps({"image": base64(PICTURE), "prompt": "car"}).encode()
MASKS = json.dumps({"image": base64(PICTURE), "boxes": [[1, 2, 11, 12]]}).encode()
BODIES = {"/v1/segment": SEGMENT, "/v1/detect": SEGMENT, "/v1/masks": MASKS}


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


class Held:
    """A service of which one stage never answers; `begun` is set once it was called."""

    def __init__(self, stage: str, **options: Any) -> None:
        self.begun = asyncio.Event()

        async def hold(name: str) -> None:
            if name == stage:
                self.begun.set()
                await asyncio.Event().wait()

        self.stages = FakeStages(gate=hold)
        self.app = Service(self.stages, **options).app


# Bodies in time


def test_a_body_that_stops_coming_is_408() -> None:
    async def test() -> None:
        service = Service(max_body_s=0.05)
        call = Call(service.app)
        call.body(SEGMENT[:10], more=True)
        status, _, body = await call.answer()
        assert (status, body["error"]["code"]) == (408, "deadline_exceeded")
        assert "within 0.05 seconds" in body["error"]["message"]
        assert service.stages.calls == []

    run(test())


def test_the_time_is_that_of_the_whole_body() -> None:
    async def test() -> None:
        service = Service(max_body_s=0.2)
        call = Call(service.app)
        while not call.task.done():  # each byte is there at once, and there is always another one
            call.body(b" ", more=True)
            wants = asyncio.create_task(call.wants.wait())
            await asyncio.wait({wants, call.task}, return_when=asyncio.FIRST_COMPLETED)
            wants.cancel()
        status, _, body = await call.answer()
        assert (status, body["error"]["code"]) == (408, "deadline_exceeded")
        assert call.reads > 10

    run(test())


def test_the_time_of_the_body_ends_with_the_body() -> None:
    """The stages take longer than `max_body_s`: they are released by a timer that is set after its end."""

    async def test() -> None:
        over = asyncio.Event()

        async def wait(_: str) -> None:
            await over.wait()

        call = Call(Service(FakeStages(gate=wait), max_body_s=0.05).app)
        call.body(SEGMENT)
        asyncio.get_running_loop().call_later(0.15, over.set)
        assert (await call.answer())[0] == 200

    run(test())


@pytest.mark.parametrize("path", BODIES)
def test_a_body_in_pieces_is_read_to_its_end(path: str) -> None:
    async def test() -> None:
        call = Call(Service(max_body_s=20).app, path=path)
        for at in range(0, len(BODIES[path]), 50):
            call.body(BODIES[path][at : at + 50], more=True)
        call.body(b"")
        assert (await call.answer())[0] == 200

    run(test())


# Clients that leave


@pytest.mark.parametrize("path", BODIES)
def test_nothing_is_computed_for_half_a_body(path: str) -> None:
    async def test() -> None:
        service = Service()
        call = Call(service.app, path=path)
        call.body(BODIES[path][:50], more=True)
        call.leave()
        assert (await call.answer())[0] == CLIENT_CLOSED_REQUEST
        assert service.stages.calls == []

    run(test())


# Held stage -> how often each stage was called by then, and must not be called again.
STAGES = {
    ("/v1/segment", "detect"): {"hold": 1, "detect": 1, "encode": 1},
    ("/v1/segment", "encode"): {"hold": 1, "detect": 1, "encode": 1},
    ("/v1/segment", "decode"): {"hold": 1, "detect": 1, "encode": 1, "decode": 1},
    ("/v1/detect", "detect"): {"hold": 1, "detect": 1},
    ("/v1/masks", "encode"): {"hold": 1, "encode": 1},
    ("/v1/masks", "decode"): {"hold": 1, "encode": 1, "decode": 1},
}


@pytest.mark.parametrize("how", ["disconnect", "cancel"])
@pytest.mark.parametrize(("path", "stage"), STAGES)
def test_a_client_that_leaves_takes_its_work_along(path: str, stage: str, how: str) -> None:
    """`disconnect`: what plain ASGI servers say; `cancel`: what Serve's replica does when its proxy says so."""

    async def test() -> None:
        held = Held(stage)
        call = Call(held.app, path=path)
        call.body(BODIES[path])
        await held.begun.wait()
        if how == "disconnect":
            call.leave()
            assert (await call.answer())[0] == CLIENT_CLOSED_REQUEST
        else:
            call.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call.task
            assert call.sent == []
        await until_cancelled(held.stages, stage)
        assert Counter(held.stages.calls) == STAGES[path, stage]

    run(test())


def test_a_client_that_leaves_while_its_image_is_looked_for() -> None:
    async def test() -> None:
        held = Held("recall")
        call = Call(held.app)
        call.body(json.dumps({"image": {"type": "id", "value": "0" * 64}, "prompt": "car"}).encode())
        await held.begun.wait()
        call.leave()
        assert (await call.answer())[0] == CLIENT_CLOSED_REQUEST
        await until_cancelled(held.stages, "recall")
        assert held.stages.calls == ["recall"]

    run(test())


def test_who_leaves_once_the_answer_has_begun_interrupts_nothing() -> None:
    """A server calls the end of an answer a disconnect, too."""

    async def test() -> None:
        finished = False

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal finished
            assert (await receive())["type"] == "http.request"
            await send({"type": "http.response.start", "status": 204, "headers": []})
            assert call is not None
            call.leave()
            for _ in range(10):
                await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": b""})
            finished = True

        call = Call(Arrival(app, max_body_s=20))
        call.body(b"")
        assert (await call.answer())[0] == 204
        assert finished

    run(test())


# Time that is over


@pytest.mark.parametrize("path", BODIES)
def test_nothing_is_computed_when_the_time_is_over_before_the_body_is_there(path: str) -> None:
    async def test() -> None:
        service = Service()
        call = Call(service.app, {"x-request-timeout-seconds": "0.05"}, path)
        call.body(BODIES[path][:50], more=True)
        status, _, body = await call.answer()
        assert (status, body["error"]["code"]) == (408, "deadline_exceeded")
        assert service.stages.calls == []

    run(test())


@pytest.mark.parametrize("path", BODIES)
def test_nothing_is_computed_when_the_time_is_over_at_once(path: str) -> None:
    service = Service()
    headers = {"x-request-timeout-seconds": "1e-9", "content-type": "application/json"}
    refusal(service.request("POST", path, content=BODIES[path], headers=headers), 408, "deadline_exceeded")
    assert service.stages.calls == []


@pytest.mark.parametrize(("path", "stage"), STAGES)
def test_no_stage_is_called_after_the_time_is_over(path: str, stage: str) -> None:
    async def test() -> None:
        held = Held(stage)
        call = Call(held.app, {"x-request-timeout-seconds": "1"}, path)
        call.body(BODIES[path])
        assert (await call.answer())[0] == 408
        await until_cancelled(held.stages, stage)
        assert Counter(held.stages.calls) == STAGES[path, stage]

    run(test())


async def until_cancelled(stages: FakeStages, stage: str) -> None:
    while stage not in stages.cancelled:
        await asyncio.sleep(0)
    for _ in range(10):  # whatever would still come, comes
        await asyncio.sleep(0)
