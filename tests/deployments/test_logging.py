"""One id a request, in every answer and log line; what the log says of a request, and what it must not say."""

from __future__ import annotations

import asyncio
import json
import logging
from functools import partial
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments.admission_settings import AdmissionSettings
from deployments.auth_settings import AuthSettings
from deployments.http.request_id import RequestId
from deployments.keys import issue
from deployments.settings import SettingsError, resolve
from pipeline.errors import StageError
from tests.deployments.asgi_calls import Call
from tests.deployments.fakes import FakeStages, base64, picture
from tests.deployments.serve_logs import eventually, folder, lines
from tests.deployments.service import PICTURE, Service

ACCESS = "ray.serve.text2mask.access"
HOSTILE = [b"", b"<script>", b"a" * 129, b"a b", b"caf\xc3\xa9", b"\xff", b"x\x1b[31m"]


def access_lines(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.name == ACCESS]


@pytest.mark.parametrize(
    ("path", "method", "status", "options"),
    [
        ("/v1/segment", "POST", 200, {"json": {"image": base64(PICTURE), "prompt": "car"}}),
        (
            "/v1/segment",
            "POST",
            200,
            {"json": {"image": base64(PICTURE), "prompt": "car"}, "headers": {"accept": "image/png"}},
        ),
        ("/v1/segment", "POST", 400, {"content": b"{", "headers": {"content-type": "application/json"}}),
        ("/v1/segment", "GET", 405, {}),
        ("/v1/nothing", "GET", 404, {}),
        ("/v1/segment", "POST", 413, {"json": {"image": base64(b"x" * 30_000), "prompt": "car"}}),
        ("/v1/segment", "POST", 415, {"content": b"x"}),
        ("/v1/segment", "POST", 422, {"json": {"image": base64(PICTURE), "prompt": ""}}),
        ("/v1/segment", "POST", 422, {"json": {}, "headers": {"x-request-timeout-seconds": "-1"}}),
        ("/v1/models", "GET", 200, {}),
        ("/healthz", "GET", 200, {}),
        ("/readyz", "HEAD", 200, {}),
        ("/docs", "GET", 200, {}),
        ("/static/docs/start.js", "GET", 200, {}),
    ],
)
def test_every_answer_echoes_the_id_once(path: str, method: str, status: int, options: dict[str, Any]) -> None:
    headers = {**options.get("headers", {}), "x-request-id": "mine:1"}
    answer = Service().request(method, path, **{**options, "headers": headers})
    assert answer.status_code == status
    assert answer.headers.get_list("x-request-id") == ["mine:1"]


def test_so_do_refusals_at_the_door(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    key, entry = issue("alice")
    service = Service(auth=AuthSettings(keys=(entry,), requests_per_minute=6))
    mine = {"x-request-id": "mine"}
    with_key = {**mine, "authorization": f"Bearer {key}"}
    answers = [service.request("GET", "/v1/models", headers=headers) for headers in (mine, with_key, with_key)]
    assert [answer.status_code for answer in answers] == [401, 200, 429]
    assert [answer.headers.get_list("x-request-id") for answer in answers] == 3 * [["mine"]]
    found = [(line.owner, line.code) for line in access_lines(caplog)]
    assert found == [("", "unauthenticated"), ("alice", None), ("alice", "rate_limited")]
    assert key not in caplog.text


def test_so_does_a_fault_outside_of_the_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("deployments.http.admission.Admission.__call__", broken)
    answer = Service(admission=AdmissionSettings()).json(headers={"x-request-id": "mine"})
    assert answer.status_code == 500
    assert answer.headers.get_list("x-request-id") == ["mine"]
    assert answer.json()["error"]["code"] == "internal"
    assert "secret" not in answer.text


@pytest.mark.parametrize("given", HOSTILE)
def test_an_id_that_is_not_harmless_is_replaced_everywhere(given: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    answer = Service().request("GET", "/v1/models", headers=[(b"x-request-id", given)])
    [made] = answer.headers.get_list("x-request-id")
    assert len(made) == 36
    assert [line.request_id for line in access_lines(caplog)] == [made]


def test_of_two_ids_none_is_taken() -> None:
    two = Service().request("GET", "/v1/models", headers=[(b"x-request-id", b"one"), (b"X-Request-Id", b"two")])
    assert not {"one", "two"} & set(two.headers.get_list("x-request-id"))


@pytest.mark.parametrize("given", [b"mine", b"<script>", None])
def test_behind_one_that_echoes_it_is_echoed_once(given: bytes | None) -> None:
    """As Serve's proxy does; without the layer that we put around it, for one test more."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    scope = {"type": "http", "headers": [] if given is None else [(b"x-request-id", given)]}
    asyncio.run(RequestId(app, echoed=True)(scope, receive, send))
    assert len(sent[0]["headers"]) == (0 if given == b"mine" else 1)


def test_who_gets_no_answer_gets_500_with_the_id() -> None:
    """As from Serve's proxy, where the ingress dies under the request."""
    sent: list[Message] = []

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    asyncio.run(RequestId(silent)({"type": "http", "headers": [(b"x-request-id", b"mine")]}, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 500
    assert (b"x-request-id", b"mine") in sent[0]["headers"]


def test_a_line_says_what_was_asked_and_how_it_went(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service = Service()
    service.json(headers={"x-request-id": "one"}, prompt="a secret car, wheel")
    service.json(headers={"x-request-id": "two"}, prompt="")
    service.request("GET", "/wp-admin/<x>", headers={"x-request-id": "three"})
    service.request("GET", "/healthz", headers={"x-request-id": "four"})
    done, refused, nowhere, probe = access_lines(caplog)
    fields = ("request_id", "method", "http_route", "status", "owner", "pixels", "detections", "code")
    assert [getattr(done, name) for name in fields] == ["one", "POST", "/v1/segment", 200, "", 600, 2, None]
    assert [getattr(refused, name) for name in fields] == [
        *("two", "POST", "/v1/segment", 422, ""),
        *(None, None, "invalid_value"),
    ]
    assert [getattr(nowhere, name) for name in fields[:4]] == ["three", "GET", "other", 404]
    assert done.body_bytes > 100
    assert 0 < done.duration_ms < 60_000
    assert "POST /v1/segment 200" in done.getMessage()
    assert "detections=2" in done.getMessage()
    assert (probe.levelno, done.levelno) == (logging.DEBUG, logging.INFO)


def test_neither_texts_nor_images_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    service = Service(FakeStages({"detect": [StageError("invalid_value", "no such secretword"), RuntimeError("x")]}))
    for _ in range(3):
        service.json(prompt="secretword, other")
    service.json(prompt=["secretword"] * 3000)
    told = "".join(str(vars(record)) for record in caplog.records)
    assert "secretword" not in told
    assert base64(PICTURE)["value"][:40] not in told


def test_a_client_that_leaves_is_499(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def test() -> None:
        began = asyncio.Event()

        async def hold(_: str) -> None:
            began.set()
            await asyncio.Event().wait()

        call = Call(Service(FakeStages(gate=hold)).app)
        call.body(json.dumps({"image": base64(PICTURE), "prompt": "car"}).encode())
        await began.wait()
        call.leave()
        await call.answer()

    asyncio.run(test())
    assert [line.status for line in access_lines(caplog)] == [499]


def test_without_access_there_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert Service(access_log=False).json().status_code == 200
    assert not access_lines(caplog)


def test_the_settings_reach_every_deployment() -> None:
    pytest.importorskip("ray")
    from ray.serve._private.build_app import build_app as built

    from deployments.app import build_app

    app = build_app({"auth.mode": "none", "logging": {"format": "text", "level": "WARNING", "access": False}})
    no_handle: Any = lambda *_: None  # noqa: E731  # nothing is called
    made = built(app, name="app", default_runtime_env={}, make_deployment_handle=no_handle)
    found = {one.name: one._deployment_config.logging_config for one in made.deployments}
    assert len(found) == 4
    for config in found.values():
        assert config is not None
        assert (config["encoding"], config["log_level"], config["enable_access_log"]) == ("TEXT", "WARNING", False)
    with pytest.raises(SettingsError, match=r"logging\.format"):
        resolve({"logging.format": "xml"}, environ={})


def test_server_timing_is_on_every_answer_of_the_interface() -> None:
    service = Service()
    for accept in ("application/json", "image/png"):
        header = service.json(headers={"accept": accept}).headers["server-timing"]
        parts = dict(part.split(";dur=") for part in header.split(", "))
        assert set(parts) == {"read", "detect", "encode", "masks", "total"}
        assert all(float(value) >= 0 for value in parts.values())
        assert float(parts["total"]) > 0
    assert service.json(prompt="").headers["server-timing"].startswith("total;dur=")
    assert set(service.masks(boxes=[[1, 1, 5, 5]]).headers["server-timing"].split(";dur=")[0::9]) == {"read"}
    assert "server-timing" not in service.request("GET", "/healthz").headers


@pytest.mark.slow
def test_the_id_is_in_the_lines_of_every_stage(client: httpx.Client) -> None:
    image = {"image": picture((50, 60))}
    answer = client.post("/v1/segment", files=image, data={"prompt": "logged"}, headers={"x-request-id": "log:1"})
    assert answer.json()["id"] == "log:1"
    assert answer.headers.get_list("x-request-id") == ["log:1"]
    [line] = eventually(lambda: lines("replica_text2mask_ingress", "log:1"))
    assert (line["http_route"], line["status"], line["pixels"]) == ("/v1/segment", 200, 3000)
    for name in ("replica_text2mask_detector", "replica_text2mask_image-encoder", "proxy"):
        found = eventually(partial(lines, name, "log:1"))
        assert {one["request_id"] for one in found} == {"log:1"}


@pytest.mark.slow
@pytest.mark.parametrize("given", [b"log 2 <script>", b"log\xff3"])
def test_serves_own_proxy_never_sees_a_hostile_id(client: httpx.Client, given: bytes) -> None:
    answer = client.get("/v1/models", headers=[(b"x-request-id", given)])
    assert answer.status_code == 200
    [made] = answer.headers.get_list("x-request-id")
    assert len(made) == 36
    [line] = eventually(lambda: lines("proxy", made))
    assert line["request_id"] == made
    assert "log 2" not in "".join(path.read_text(encoding="utf-8") for path in folder().glob("*.log"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["traceparent", "x-session-id", "serve-multiplexed-model-id", "x-other"])
def test_a_header_that_is_not_utf8_is_no_fault(client: httpx.Client, name: str) -> None:
    """Serve's proxy decodes the first three."""
    answer = client.get("/v1/models", headers=[(name.encode(), b"\xff")])
    assert answer.status_code == 200
    assert len(answer.headers.get_list("x-request-id")) == 1


@pytest.mark.slow
def test_nor_is_a_time_that_is_not_utf8(client: httpx.Client) -> None:
    answer = client.post("/v1/segment", headers=[(b"x-request-timeout-seconds", b"\xff")])
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "x-request-timeout-seconds")


@pytest.mark.slow
def test_a_refused_image_is_no_error_in_the_log(client: httpx.Client) -> None:
    broken = {"image": picture((300, 300))[:-30]}
    answer = client.post("/v1/segment", files=broken, data={"prompt": "car"}, headers={"x-request-id": "log:4"})
    assert answer.json()["error"]["code"] == "image_undecodable"
    found = eventually(lambda: lines("replica_text2mask_detector", "log:4"))
    assert [(line["levelname"], "exc_text" in line) for line in found] == [("INFO", False)]
    assert "OK" in found[0]["message"]


@pytest.mark.slow
def test_a_refusal_passes_through_the_next_stage(client: httpx.Client) -> None:
    """The decoder is given what the encoder refused, by reference, before anybody knows that it was refused."""
    broken = {"image": picture((310, 310))[:-30]}
    answer = client.post("/v1/masks", files=broken, data={"boxes": "[[1, 1, 9, 9]]"}, headers={"x-request-id": "log:5"})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "image_undecodable"
    for name in ("replica_text2mask_image-encoder", "replica_text2mask_mask-decoder"):
        found = eventually(partial(lines, name, "log:5"))
        assert [(line["levelname"], "exc_text" in line) for line in found] == [("INFO", False)]
