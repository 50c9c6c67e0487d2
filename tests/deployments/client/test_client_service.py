"""The client against the real HTTP application over fake stages: every field and every error of the API."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_type_hints

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.auth_settings import AuthSettings, digest_of
from deployments.client import (
    AsyncClient,
    Client,
    DeadlineError,
    FaultError,
    ImageId,
    ImageUrl,
    RefusedError,
    UnauthenticatedError,
)
from deployments.client.fields import CallOptions, DetectOptions, MasksOptions, SegmentOptions
from deployments.client.images import Upload
from deployments.client.wire import content_of, plain
from deployments.http.body import parse_form
from deployments.http.fields import from_form, from_json
from deployments.http.mask_schemas import MasksFields
from deployments.http.schemas import DetectFields, SegmentFields, SegmentForm, SegmentRequest
from pipeline.errors import StageError
from tests.deployments.client.test_client import Time
from tests.deployments.fakes import FakeStages, picture
from tests.deployments.service import PICTURE, Service

KEY = "t2m_a-key"


@contextmanager
def serving(service: Service | None = None, **options: Any) -> Iterator[Client]:
    transport = httpx.ASGITransport((service or Service()).app, raise_app_exceptions=False)
    with Client("http://localhost", http=transport, **options) as client:
        yield client


@pytest.mark.parametrize(
    ("options", "fields"), [(DetectOptions, DetectFields), (SegmentOptions, SegmentFields), (MasksOptions, MasksFields)]
)
def test_every_field_of_the_api_is_there_and_no_other(options: Any, fields: Any) -> None:
    own = get_type_hints(CallOptions).keys()
    assert get_type_hints(options).keys() - own == fields.model_fields.keys() - {"prompt"}


EVERY: dict[str, Any] = {
    "mode": "phrase",
    "negative_prompt": ["nothing here", {"text": "nothing there", "box_threshold": 0.9}],
    "model": "tiny",
    "box_threshold": 0.25,
    "text_threshold": 0.1,
    "nms": "agnostic",
    "nms_threshold": 0.6,
    "negative_iou": 0.4,
    "min_area": 0.01,
    "max_area": 1.0,
    "max_detections": 7,
    "tile": {"size": 64, "overlap": 16},
    "raw": False,
    "multimask": True,
    "masks": "png",
}


def test_every_field_arrives_in_a_form_and_in_json() -> None:
    """The second time the image goes by its id, so as JSON."""
    assert EVERY.keys() == get_type_hints(SegmentOptions).keys() - get_type_hints(CallOptions).keys()
    service = Service()
    with serving(service) as client:
        first = client.segment(PICTURE, "car, wheel", **EVERY)
        second = client.segment(PICTURE, "car, wheel", **EVERY)
        assert client.stats.reused_ids == 1
    assert first == second
    assert first.labels == ("car, wheel",)
    content = content_of(plain({"prompt": "car, wheel", **EVERY}), Upload(PICTURE, b""))
    assert "json" not in content
    assert read_form(content) == from_json(
        {"image": {"type": "id", "value": "0"}, "prompt": "car, wheel", **EVERY}, SegmentRequest
    ).model_dump(exclude={"image"})


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("prompt", 5),
        ("prompt", [5]),
        ("prompt", {"text": "car"}),
        ("negative_prompt", {"text": "car"}),
        ("box_threshold", "0.5"),
        ("max_detections", 5.0),
        ("multimask", 1),
        ("raw", "true"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_bytes_as_it_is_by_the_id(param: str, value: Any) -> None:
    with serving() as client:
        for _ in range(2):  # before the service has the image, and after
            with pytest.raises(RefusedError) as caught:
                client.segment(PICTURE, **{"prompt": "car", param: value})
            assert (caught.value.code, str(caught.value.param).partition("[")[0]) == ("invalid_value", param)
            client.segment(PICTURE, "car")


def read_form(content: dict[str, Any]) -> dict[str, Any]:
    """The fields of a body as the service reads them."""
    request = httpx.Request("POST", "http://a", **content)
    parts = parse_form(request.headers["content-type"], request.read())
    assert parts.pop("image") == PICTURE
    form: Any = parts
    return from_form(form, SegmentForm).model_dump()


def test_results_of_every_method() -> None:
    with serving() as client:
        result = client.segment(PICTURE, ["car", "wheel"])
        assert (result.labels, result.masks.shape) == (("car", "wheel"), (2, 20, 30))
        assert result.id is not None
        assert client.detect(PICTURE, "car").rles is None
        assert client.segment(PICTURE, "car", masks="none").rles is None
        assert client.segment(PICTURE, "car", masks="polygon") == client.segment(PICTURE, "car")
        assert client.overlay(PICTURE, "car").startswith(b"\x89PNG")
        assert [model["name"] for model in client.models()] == ["tiny+tiny"]
        assert client.ready() is True
        boxes = np.array([[1, 2, 11, 12], [3, 4, 9, 9]], np.float32)
        found = client.masks(PICTURE, boxes=boxes, multimask=True, low_res=True)
        np.testing.assert_array_equal(found.boxes, boxes)
        assert found.low_res is not None
        assert len(found.alternatives or ()) == 2
        again = client.masks(
            ImageId(found.image_id or ""), boxes=boxes, mask_input=found.low_res, points=[[], [[5, 5, 1]]]
        )
        assert again.image_id == found.image_id
        assert len(client.segment(PICTURE, "car", request_id="mine-1")) == 1
        assert client.segment(PICTURE, "car", request_id="mine-1").id == "mine-1"


def test_the_same_without_a_thread() -> None:
    async def work() -> None:
        transport = httpx.ASGITransport(Service().app)
        async with AsyncClient("http://localhost", http=transport) as client:
            result = await client.segment(PICTURE, "car")
            assert await client.detect(PICTURE, "car") != result
            assert (await client.masks(PICTURE, boxes=[[1, 2, 3, 4]])).image_id == result.image_id
            assert len(await client.overlay(PICTURE, "car")) > 0
            assert len(await client.models()) == 1
            assert await client.ready()
            answers = [answer.unwrap() async for answer in client.segment_many([PICTURE] * 3, "car")]
            assert answers == [result] * 3

    asyncio.run(work())


REFUSED: dict[str, tuple[Callable[[Client], object], int, str, str | None]] = {
    "threshold": (lambda c: c.segment(PICTURE, "car", box_threshold=2), 422, "invalid_value", "box_threshold"),
    "no text": (lambda c: c.segment(PICTURE, " . "), 422, "invalid_value", "prompt"),
    "format": (lambda c: c.segment(b"GIF89a", "car"), 415, "image_format_not_allowed", "image"),
    "cut": (lambda c: c.segment(PICTURE[:40], "car"), 422, "image_undecodable", "image"),
    "pixels": (lambda c: c.segment(picture((200, 200)), "car"), 413, "image_too_large", "image"),
    "bytes": (lambda c: c.segment(PICTURE + bytes(30_000), "car"), 413, "image_too_large", "image"),
    "model": (lambda c: c.segment(PICTURE, "car", model="other"), 404, "unknown_model", "model"),
    "url": (lambda c: c.segment(ImageUrl("https://a.test"), "car"), 403, "url_not_allowed", "image.value"),
    "id": (lambda c: c.segment(ImageId("0" * 64), "car"), 404, "image_not_cached", "image.value"),
    "no prompts": (lambda c: c.masks(PICTURE), 422, "invalid_value", None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_of_the_service(name: str) -> None:
    act, status, code, param = REFUSED[name]
    with serving() as client:
        with pytest.raises(RefusedError) as caught:
            act(client)
        error = caught.value
        assert (error.status, error.code) == (status, code)
        assert param is None or error.param == param
        assert client.stats.attempts == 1


def test_faults_of_the_service() -> None:
    stages = FakeStages({"detect": [RuntimeError("a secret"), StageError("cancelled", "given up"), None]})
    time = Time()

    async def work() -> None:
        transport = httpx.ASGITransport(Service(stages).app, raise_app_exceptions=False)
        async with AsyncClient("http://localhost", http=transport, clock=time.clock, sleep=time.sleep) as client:
            with pytest.raises(FaultError, match="internal"):
                await client.segment(PICTURE, "car")
            assert len(await client.segment(PICTURE, "car")) == 1  # after a 503
            assert client.stats.retries == 1

    asyncio.run(work())
    assert time.pauses == [1.25]  # `Retry-After: 1`, and a little
    with serving(Service(ready=False)) as client:
        assert client.ready() is False


def test_the_deadline_reaches_the_stages() -> None:
    never: Callable[[str], Awaitable[None]] = lambda _: asyncio.Event().wait()  # type: ignore[assignment, return-value]  # noqa: E731
    stages = FakeStages(gate=never)
    with serving(Service(stages)) as client, pytest.raises(DeadlineError) as caught:
        client.segment(PICTURE, "car", timeout_s=0.4)
    assert caught.value.status == 408  # the service's own, a margin before ours
    assert "detect" in stages.cancelled


def test_keys() -> None:
    auth = AuthSettings.model_validate({"mode": "keys", "keys": [{"owner": "me", "sha256": digest_of(KEY.encode())}]})
    service = Service(auth=auth)
    with serving(service, key=KEY) as client:
        assert len(client.segment(PICTURE, "car")) == 1
        assert len(client.models()) == 1
    with serving(service) as client:
        assert client.ready() is True
        with pytest.raises(UnauthenticatedError, match="a valid key is needed"):
            client.segment(PICTURE, "car")


TEXTS = st.text(max_size=12) | st.sampled_from(['["a"]', "[x]", " [1", "{", "auto", "true", "a,b\r\n--x", '"'])


@given(prompt=TEXTS | st.lists(TEXTS, max_size=3), threshold=st.none() | st.floats(0, 1), raw=st.none() | st.booleans())
def test_a_form_says_what_json_says(prompt: str | list[str], threshold: float | None, raw: bool | None) -> None:
    """By the service's own readers."""
    fields = plain({"prompt": prompt, "box_threshold": threshold, "raw": raw})
    content = content_of(fields, Upload(PICTURE, b""))
    reference = {"image": {"type": "base64", "value": "QQ=="}, **fields}
    if "json" in content:
        assert content["json"] == {**reference, "image": content["json"]["image"]}
        return
    assert read_form(content) == from_json(reference, SegmentRequest).model_dump(exclude={"image"})
