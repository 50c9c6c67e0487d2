"""How much an ingress replica takes on at a time: requests and bytes, at the limit and beyond it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from deployments.admission_settings import LEAST_BODY_BYTES, AdmissionSettings
from deployments.http.admission import Admission
from deployments.http.mask_schemas import MasksFields
from deployments.http.reading import base64_length
from deployments.http.schemas import SegmentFields
from deployments.settings import Settings, SettingsError, resolve
from pipeline.image import ImageLimits
from tests.deployments.asgi_calls import Call
from tests.deployments.fakes import FakeStages, base64
from tests.deployments.service import PICTURE, Service, refusal

MIB = 2**20


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


class Reader:
    """An application that reads a body to its end and answers 204 once `release` is set."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await self.release.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})


def refused(answer: tuple[int, dict[str, str], Any]) -> bool:
    status, headers, body = answer
    if status != 429:
        return False
    assert body["error"]["code"] == "overloaded"
    assert body["error"]["message"]
    assert int(headers["retry-after"]) >= 1
    return True


def test_as_many_requests_as_there_are_places_and_no_more() -> None:
    async def test() -> None:
        inside = Reader()
        app = Admission(inside, max_requests=2, max_body_bytes=MIB)
        admitted = [Call(app) for _ in range(2)]
        for call in admitted:
            await call.wants.wait()
        third = Call(app)
        assert refused(await third.answer())
        assert third.reads == 0
        for call in admitted:
            call.body(b"")
        inside.release.set()
        assert [(await call.answer())[0] for call in admitted] == [204, 204]
        after = Call(app)
        after.body(b"")
        assert (await after.answer())[0] == 204

    run(test())


@pytest.mark.parametrize("end", ["error", "cancel"])
def test_a_place_is_free_again_however_a_request_ends(end: str) -> None:
    async def test() -> None:
        async def broken(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            raise RuntimeError("broken")

        app = Admission(broken, max_requests=1, max_body_bytes=100)
        for _ in range(3):
            call = Call(app, {"content-length": "100"})
            await call.wants.wait()
            if end == "error":
                call.body(b"a" * 100)
            else:
                call.task.cancel()
            await asyncio.wait({call.task})
            assert not call.sent

    run(test())


def test_an_announced_body_is_set_aside_from_the_start() -> None:
    async def test() -> None:
        inside = Reader()
        app = Admission(inside, max_requests=9, max_body_bytes=100)
        first = Call(app, {"content-length": "60"})
        await first.wants.wait()
        over = Call(app, {"content-length": "41"})
        assert refused(await over.answer())
        assert over.reads == 0
        second = Call(app, {"content-length": "40"})
        await second.wants.wait()
        inside.release.set()
        first.body(b"a" * 60)
        second.body(b"a" * 40)
        assert [(await call.answer())[0] for call in (first, second)] == [204, 204]
        whole = Call(app, {"content-length": "100"})
        whole.body(b"a" * 100)
        assert (await whole.answer())[0] == 204

    run(test())


def test_a_body_of_unknown_length_counts_as_it_is_read() -> None:
    """Through the service: the route that reads it passes the refusal on."""

    async def test() -> None:
        service = Service()
        app = Admission(service.app, max_requests=9, max_body_bytes=1000)
        held = Call(app, {"content-length": "400"})
        await held.wants.wait()
        drip = Call(app)
        drip.body(b" " * 600, more=True)
        await drip.wants.wait()
        assert not drip.task.done()
        drip.wants.clear()
        drip.body(b" ", more=True)
        assert refused(await drip.answer())
        again = Call(app)  # what was held for it is free
        again.body(b" " * 600, more=True)
        await again.wants.wait()
        assert not again.task.done()
        again.leave()
        held.leave()
        await asyncio.wait({again.task, held.task})
        assert service.stages.calls == []

    run(test())


def test_what_could_never_be_taken_is_refused_by_the_route() -> None:
    async def test() -> None:
        app = Service(admission=AdmissionSettings()).app
        call = Call(app, {"content-length": str(10**15)})
        status, headers, body = await call.answer()
        assert (status, body["error"]["code"]) == (413, "body_too_large")
        assert call.reads == 0
        assert headers["connection"] == "close"

    run(test())


def test_only_work_is_counted() -> None:
    async def test() -> None:
        service = Service(admission=AdmissionSettings(max_requests=1))
        held = Call(service.app)
        await held.wants.wait()
        assert refused(await Call(service.app, path="/v1/anything").answer())
        assert (await Call(service.app, path="/healthz").answer())[0] == 405
        held.leave()
        await asyncio.wait({held.task})

    run(test())
    for path in ("/v1/models", "/healthz", "/readyz", "/openapi.json"):
        assert Service(admission=AdmissionSettings(max_requests=1)).request("GET", path).status_code == 200


def test_the_service_refuses_while_its_stages_are_busy() -> None:
    async def test() -> None:
        go_on, began = asyncio.Event(), asyncio.Event()

        async def hold(_: str) -> None:
            began.set()
            await go_on.wait()

        service = Service(FakeStages(gate=hold), admission=AdmissionSettings(max_requests=1))
        body = json.dumps({"image": base64(PICTURE), "prompt": "car"}).encode()
        first = Call(service.app)
        first.body(body)
        await began.wait()
        calls = list(service.stages.calls)
        assert refused(await Call(service.app, {"content-length": str(len(body))}).answer())
        assert service.stages.calls == calls
        go_on.set()
        assert (await first.answer())[0] == 200

    run(test())


def test_without_admission_nobody_is_refused() -> None:
    refusal(Service().raw(b"{}"), 422, "invalid_value")
    refusal(Service(admission=AdmissionSettings()).raw(b"{}"), 422, "invalid_value")


def test_the_longest_body_of_every_route_fits_the_smallest_budget() -> None:
    image = base64_length(ImageLimits().max_bytes)
    assert image + max(SegmentFields.room, MasksFields.room) <= LEAST_BODY_BYTES
    with pytest.raises(SettingsError, match="max_body_bytes"):
        resolve({"admission.max_body_bytes": LEAST_BODY_BYTES - 1}, environ={})


def test_a_replica_has_room_for_those_that_it_refuses() -> None:
    most = Settings().ingress.max_ongoing_requests
    resolve({"admission.max_requests": most - 1}, environ={})
    with pytest.raises(SettingsError, match="max_ongoing_requests must exceed"):
        resolve({"admission.max_requests": most}, environ={})
