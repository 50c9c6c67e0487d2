"""The page in Chromium, over stages that answer by rule: each class has a column of the picture as its box and mask."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, Request, Route, expect
from starlette.types import Receive, Scope, Send

from deployments.auth_settings import AuthSettings, KeyEntry
from deployments.http.errors import ApiError
from pipeline.image import decode
from pipeline.palette import class_colour
from tests.configs.front import Upstream, serving
from tests.deployments.fakes import FakeStages, picture
from tests.deployments.service import Service
from tests.web.browsing import Screen, needs_browser
from tests.web.conftest import Open

pytestmark = needs_browser

SIZE = (60, 90)  # height, width
PICTURE = picture(SIZE)
KEY = "t2m_right"
HOSTILE = "<img src=x onerror=document['title']=1>"


@pytest.fixture(scope="module")
def fakes() -> Iterator[tuple[FakeStages, str]]:
    service = Service()
    with serving(Upstream(service.app)) as upstream:
        yield service.stages, f"http://127.0.0.1:{upstream.port}"


@pytest.fixture
def screen(fakes: tuple[FakeStages, str], open_page: Open) -> Screen:
    return open_page(fakes[1])


def columns(screen: Screen) -> list[bool]:
    """Whether the thirds of the picture are covered, left to right."""
    alpha = screen.masks_at(SIZE)[30, [15, 45, 75], 3]
    return [bool(value) for value in alpha]


def sent(request: Request) -> dict[str, Any]:
    """The JSON of a request."""
    body: dict[str, Any] = request.post_data_json or {}
    return body


def test_classes_and_instances_are_switched_off_and_on(screen: Screen) -> None:
    screen.upload(PICTURE)
    screen.ask("car, wheel, door")
    screen.says("3 found")
    assert columns(screen) == [True] * 3
    red, green, blue, alpha = screen.masks_at(SIZE)[30, 45].tolist()
    assert np.abs(np.array([red, green, blue]) - class_colour(1)).max() <= 2  # as far as half transparent colours go
    assert 100 < alpha < 255
    screen.page.get_by_label("wheel", exact=True).uncheck()
    assert columns(screen) == [True, False, True]
    screen.page.keyboard.press("a")
    assert columns(screen) == [True] * 3
    screen.page.keyboard.press("a")
    assert columns(screen) == [False] * 3
    expect(screen["save-png"]).to_be_disabled()


def test_sliders_stop_at_the_floor_and_say_so(screen: Screen) -> None:
    screen.upload(PICTURE)
    screen.ask("car, wheel, door")  # scores 0.9, 0.7, 0.5; text scores 0.1 less
    sent = len(screen.requests)
    for box, text, kept in [(0.5, 0, 3), (0.51, 0, 2), (0.1, 0.61, 1), (0.1, 0.59, 2), (0.95, 0, 0), (0.1, 0, 3)]:
        screen.slide("box", box)
        screen.slide("text", text)
        assert sum(columns(screen)) == kept, (box, text)
        assert len(screen.rows()) == kept
        if not kept:
            expect(screen["nothing"]).to_contain_text("lower the sliders")
    expect(screen["floor"]).to_contain_text("nothing below 0.10")
    assert len(screen.requests) == sent == 1


def test_a_hostile_label_is_text(screen: Screen) -> None:
    screen.upload(PICTURE, HOSTILE.replace("/", "") + ".png")
    screen.ask(HOSTILE)
    screen.says("1 found")
    assert screen.rows() == [HOSTILE]
    screen.click((45, 30), SIZE)
    expect(screen["tip"]).to_be_hidden()
    expect(screen["stage-help"]).to_contain_text(HOSTILE)
    assert screen.page.locator("main img:not(#samples img)").count() == 0
    assert screen.page.title() == "text2mask"


def test_an_image_that_is_not_kept_any_more_is_sent_once_more(screen: Screen, fakes: tuple[FakeStages, str]) -> None:
    screen.upload(PICTURE)
    screen.ask("car")
    screen.ask("wheel")
    fakes[0].kept.clear()
    screen.ask("door")
    screen.says("1 found")
    kinds = [request.headers["content-type"].partition(";")[0] for request in screen.requests]
    assert kinds == ["multipart/form-data", "application/json", "application/json", "multipart/form-data"]


def test_points_go_with_the_box_and_can_be_taken_back(screen: Screen) -> None:
    screen.upload(PICTURE)
    screen.ask("car, wheel, door")
    screen.click((45, 30), SIZE)  # picks
    screen.click((46, 31), SIZE)
    screen.refined()
    screen.click((40, 10), SIZE, modifiers=["Shift"])
    expect(screen["status"]).to_contain_text("2 points")
    screen["marks"].get_by_text("not part").click()
    screen.click((41, 11), SIZE)
    expect(screen["status"]).to_contain_text("3 points")
    first, second, third = (sent(request) for request in screen.requests[1:])
    assert first["image"]["type"] == "id"
    assert first["boxes"] == [[30, 0, 60, 60]]
    assert "mask_input" not in first
    assert np.abs(np.array(first["points"]) - [[[46, 31, 1]]]).max() < 1
    assert [point[2] for point in third["points"][0]] == [1, 0, 0]
    assert second["mask_input"][0]["shape"] == [12, 12]
    for left in (2, 1, 0):
        expect(screen["undo"]).to_be_enabled()
        screen.page.keyboard.press("z")
        assert bool(left) == screen["undo"].is_enabled()
    assert len(screen.requests) == 4
    screen.page.keyboard.press("Escape")
    expect(screen["done"]).to_be_hidden()


def test_a_click_on_nothing_makes_an_instance_of_its_own(screen: Screen) -> None:
    screen.upload(PICTURE)
    screen.ask("nothing")
    screen.says("Nothing found")
    screen.click((20, 40), SIZE)
    screen.refined()
    assert screen.rows() == ["clicked, refined"]
    covered = screen.masks_at(SIZE)[..., 3] > 0
    assert covered[39:41, 19:21].all()  # the fake's mask of a point: 4x4 pixels
    assert covered.sum() <= 36
    screen["undo"].click()
    assert screen.rows() == []
    assert not screen.masks_at(SIZE).any()


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG"])
def test_the_picture_is_upright(screen: Screen, form: str) -> None:
    stored = Image.new("RGB", (80, 40), "white")
    stored.paste("red", (0, 0, 40, 40))
    stored.paste("blue", (0, 0, 40, 20))  # no two ways to turn it look alike
    screen["words"].fill("car")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        buffer = BytesIO()
        stored.save(buffer, form, exif=exif, quality=95)
        upright = decode(buffer.getvalue())
        assert upright.shape[:2] == ((40, 80) if orientation < 5 else (80, 40))
        name = f"{orientation}.{form.lower()}"
        screen.upload(buffer.getvalue(), name)
        expect(screen["masks"]).to_have_attribute("aria-label", re.compile(rf"^{name}"))
        screen.says("1 found")
        expect(screen["working"]).to_be_hidden()
        height, width = upright.shape[:2]
        shown = screen.canvas("picture")
        assert shown.shape[0] * width == shown.shape[1] * height
        for y, x in [(y * height // 4, x * width // 4) for y in (1, 3) for x in (1, 3)]:
            seen = shown[y * shown.shape[0] // height, x * shown.shape[1] // width, :3].astype(int)
            assert np.abs(seen - upright[y, x]).max() < 25, orientation
        assert (screen.masks_at((height, width))[..., 3] > 0).all()
        assert "another way" not in screen["status"].inner_text()


def told(code: str) -> str:
    return json.dumps({"error": {"code": code, "message": "m", "param": None}})


REFUSALS = {
    "busy": (429, {"retry-after": "7"}, told("overloaded"), "again in 7 s"),
    "not ready": (503, {}, told("not_ready"), "starting"),
    "proxy": (503, {}, "Service unavailable", "does not answer"),
    "late": (408, {}, told("deadline_exceeded"), "too long"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_say_what_to_do(screen: Screen, name: str) -> None:
    status, headers, body, words = REFUSALS[name]
    screen.upload(PICTURE)
    screen.page.route("**/v1/segment", lambda route: route.fulfill(status=status, headers=headers, body=body))
    screen.ask("car")
    screen.says(words)
    screen.page.unroute("**/v1/segment")
    screen.ask("car")
    screen.says("1 found")


def test_faults_of_pictures_words_and_the_line(screen: Screen) -> None:
    screen.ask("car")
    screen.says("Choose a picture first")
    screen.upload(b"no picture", "a.txt")
    screen.says("not a picture")
    screen.upload(PICTURE + b"\0" * 20_000)
    screen.says("too large")
    screen.upload(picture((200, 200)))
    screen.ask("car")
    screen.says("too large. At most")
    screen.upload(PICTURE)
    screen.says("1 found")
    screen.ask("?")
    screen.says("These words do not work")
    screen.ask(" ")
    screen.says("Type what to look for")
    screen.page.context.set_offline(True)
    screen.ask("car")
    screen.says("cannot be reached")


def held(page: Page) -> list[Route]:
    """Requests for masks, kept from the service."""
    routes: list[Route] = []
    page.route("**/v1/segment", lambda route: routes.append(route))
    return routes


def test_a_request_is_cancelled(screen: Screen) -> None:
    screen.upload(PICTURE)
    routes = held(screen.page)
    for stop in ("click", "Escape"):
        screen["words"].fill("car")
        screen["words"].press("Enter")
        expect(screen["cancel"]).to_be_visible()
        expect(screen["status"]).to_contain_text("Looking for")
        screen["cancel"].click() if stop == "click" else screen.page.keyboard.press(stop)
        screen.says("Cancelled")
        expect(screen["go"]).to_be_visible()
    assert len(routes) == 2


def test_a_key_is_asked_for_used_and_forgotten(open_page: Open) -> None:
    auth = AuthSettings(mode="keys", keys=(KeyEntry(owner="alice", sha256=hashlib.sha256(KEY.encode()).hexdigest()),))
    with serving(Upstream(Service(auth=auth).app)) as upstream:
        screen = open_page(f"http://127.0.0.1:{upstream.port}")
        for given in ("t2m_wrong", KEY):
            expect(screen["key-dialog"]).to_be_visible()
            screen["key"].fill(given)
            screen["key"].press("Enter")
            if given != KEY:
                expect(screen["key-wrong"]).to_contain_text("does not know this key")
        expect(screen["key-dialog"]).to_be_hidden()
        screen.upload(PICTURE)
        screen.ask("car")
        screen.says("1 found")
        assert screen.requests[-1].headers["authorization"] == f"Bearer {KEY}"
        screen["open-key"].click()
        screen["forget"].click()
        screen["key-close"].click()
        screen.ask("car")
        expect(screen["key-dialog"]).to_be_visible()
        expect(screen["key-wrong"]).to_be_hidden()
        assert all(KEY not in f"{method}{path}" for method, path, _ in upstream.requests)


def test_keys_alone_lead_through_the_page(screen: Screen) -> None:
    page = screen.page
    screen.upload(PICTURE)
    expect(screen["words"]).to_be_focused()  # where there is a picture and no words yet
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("/")
    page.keyboard.type("car, wheel, door")
    page.keyboard.press("Enter")
    screen.says("3 found")
    order = []
    for _ in range(24):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
        if order[-1] == "masks":
            page.keyboard.press("ArrowLeft")
            page.keyboard.press("Space")  # picks
            page.keyboard.press("Space")
            screen.refined()
        if order[-1] == "box":
            page.keyboard.press("End")
            assert screen["box"].input_value() == "0.95"
            page.keyboard.press("Home")
        if order[-1] == "car":
            page.keyboard.press("Space")
            assert columns(screen)[0] is False
    wanted = ["phrase", "masks", "another", "undo", "box", "text", "car", "Refine car", "save-png", "save-json"]
    assert [name for name in order if name in wanted] == wanted
    assert sent(screen.requests[-1])["points"][0][0][2] == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(
    fakes: tuple[FakeStages, str], open_page: Open, scheme: str
) -> None:
    screen = open_page(
        fakes[1], viewport={"width": 360, "height": 720}, has_touch=True, device_scale_factor=2, color_scheme=scheme
    )

    def overflow() -> int:
        return int(screen.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    assert overflow() <= 0
    screen.upload(PICTURE)
    screen.ask(f"{'long' * 40}, wheel, door")
    screen.says("3 found")
    screen["masks"].tap()
    expect(screen["done"]).to_be_visible()
    assert overflow() <= 0
    assert screen.canvas("masks").shape[1] == 2 * round((screen["masks"].bounding_box() or {"width": 0})["width"])
    light = screen.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (light == "rgb(246, 247, 250)") == (scheme == "light")


def test_a_picture_is_dropped_and_pasted(screen: Screen) -> None:
    screen["words"].fill("car")
    for event, field in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        sent = len(screen.requests)
        screen.page.evaluate(
            """([bytes, event, field]) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], "own.png", { type: "image/png" }));
              const init = { bubbles: true, cancelable: true, [field]: data };
              const kind = event === "drop" ? DragEvent : ClipboardEvent;
              document.body.dispatchEvent(new kind(event, init));
            }""",
            [list(PICTURE), event, field],
        )
        screen.says("1 found")
        expect(screen["working"]).to_be_hidden()
        assert len(screen.requests) == sent + 1


def test_it_works_under_a_prefix(open_page: Open) -> None:
    app = Service().app

    async def under(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["path"].startswith("/masks/")
        await app({**scope, "root_path": "/masks"}, receive, send)

    with serving(Upstream(under)) as upstream:
        screen = open_page(f"http://127.0.0.1:{upstream.port}/masks")
        screen.upload(PICTURE)
        screen.ask("car")
        screen.says("1 found")


def test_a_stage_that_fails_leaves_the_page_as_it_was(open_page: Open) -> None:
    stages = FakeStages({"decode": [None, ApiError("overloaded"), None]})
    with serving(Upstream(Service(stages).app)) as upstream:
        screen = open_page(f"http://127.0.0.1:{upstream.port}")
        screen.upload(PICTURE)
        screen.ask("car")
        screen.click((45, 30), SIZE)
        screen.click((45, 30), SIZE)
        screen.says("busy")
        expect(screen["undo"]).to_be_disabled()
        assert (screen.masks_at(SIZE)[..., 3] > 0).all()
        screen.click((45, 30), SIZE)
        screen.refined()
