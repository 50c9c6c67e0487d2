"""Images by URL through the service, and their settings."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpcore
import pytest
import yaml

from deployments.fetch import Fetcher
from deployments.fetch_settings import FetchSettings
from deployments.settings import SettingsError, resolve
from pipeline.image import ImageLimits
from tests.deployments.fakes import FakeStages
from tests.deployments.service import LIMITS, PICTURE, Service, refusal
from tests.deployments.tls_server import ALLOWED, HOST, PUBLIC, URL, Names, answer, redirect

IMAGE = {"type": "url", "value": URL}


def service(page: bytes = answer(PICTURE), **settings: Any) -> Service:
    """The service, and a host that answers `page`."""
    fetcher = Fetcher(
        FetchSettings.model_validate({**ALLOWED, **settings}),
        LIMITS.max_bytes,
        resolver=Names({HOST: [[PUBLIC]]}),
        network=httpcore.AsyncMockBackend([page]),
    )
    return Service(FakeStages(), fetcher=fetcher)


def test_the_answer_is_that_of_the_same_image_sent() -> None:
    fetched, sent = service().json(image=IMAGE).json(), service().json().json()
    assert fetched["detections"] == sent["detections"]
    assert fetched["image"] == sent["image"]
    boxes = [[1, 2, 10, 12]]
    assert service().masks(image=IMAGE, boxes=boxes).json()["detections"][0]["box"] == boxes[0]


@pytest.mark.parametrize("path", ["/v1/segment", "/v1/masks"])
def test_off_unless_the_operator_says_otherwise(path: str) -> None:
    fields = {"prompt": "car"} if path == "/v1/segment" else {"boxes": [[1, 2, 10, 12]]}
    error = refusal(Service().request("POST", path, json={"image": IMAGE, **fields}), 403, "url_not_allowed")
    assert "operator" in error["message"]
    assert error["param"] == "image.value"


@pytest.mark.parametrize(
    ("value", "page", "status", "code"),
    [
        (f"http://{HOST}/a.png", b"", 422, "invalid_value"),
        ("https://evil.com/a.png", b"", 403, "url_not_allowed"),
        (URL, redirect("https://evil.com/SECRET"), 403, "url_not_allowed"),
        (URL, answer(b"SECRET", status="404 SECRET"), 422, "url_not_fetched"),
        (URL, answer(bytes(LIMITS.max_bytes + 1)), 413, "image_too_large"),
        (
            URL,
            answer(b"SECRET: what the remote says is an image", "Content-Type: image/png"),
            415,
            "image_format_not_allowed",
        ),
        (URL, answer(PICTURE[:20]), 422, "image_undecodable"),
    ],
)
def test_refusals_are_of_the_one_format(value: str, page: bytes, status: int, code: str) -> None:
    asked = service(page)
    response = asked.json(image={"type": "url", "value": value})
    refusal(response, status, code)
    assert "SECRET" not in response.text
    assert PUBLIC not in response.text
    assert asked.stages.calls == []


def test_the_requests_own_deadline_ends_a_fetch() -> None:
    async def never(host: str) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    asked = Service(fetcher=Fetcher(FetchSettings.model_validate(ALLOWED), resolver=never))
    refusal(asked.json(headers={"x-request-timeout-seconds": "0.4"}, image=IMAGE), 408, "deadline_exceeded")


# Settings


def test_off_by_default_and_on_with_hosts() -> None:
    assert not resolve(environ={}).fetch.enabled
    environ = {
        "TEXT2MASK_FETCH__ENABLED": "true",
        "TEXT2MASK_FETCH__ALLOWED_HOSTS": "Images.Example.com, *.cdn.example.com",
    }
    fetch = resolve(environ=environ).fetch
    assert fetch.enabled
    assert fetch.allowed_hosts == ("images.example.com", "*.cdn.example.com")
    assert fetch.max_bytes == ImageLimits().max_bytes
    assert resolve(yaml={"fetch": {"allowed_hosts": [HOST]}}, environ={}).fetch.allowed_hosts == (HOST,)


def test_the_settings_that_the_page_shows_are_settings() -> None:
    page = (Path(__file__).parents[2] / "docs" / "urls.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    assert resolve(yaml=shown, environ={}).fetch == FetchSettings.model_validate(ALLOWED)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "*",
        "*.com",
        "com",
        "localhost",
        "https://a.com",
        "a.com/b",
        "a.com:443",
        "a.*.com",
        "*a.com",
        "a..com",
        "a.com.",
    ]
    + [
        "10.0.0.1",
        "0x7f.1",
        "1.2.3.4",
        "[::1]",
        "::1",
        "ä.com",
        "a b.com",
        "*.*.com",
        "a" * 64 + ".com",
        "a." * 127 + "com",
    ],
)
def test_what_is_no_name_of_a_host_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match=r"fetch\.allowed_hosts"):
        resolve(yaml={"fetch": {"allowed_hosts": [host]}}, environ={})


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"enabled": True}, "enabled wants allowed_hosts"),
        ({"enabled": True, "allowed_hosts": " , "}, "enabled wants allowed_hosts"),
        ({"max_redirects": 4}, "max_redirects"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"max_bytes": ImageLimits().max_bytes + 1}, "max_bytes"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        resolve(yaml={"fetch": values}, environ={})
