"""The page when things come out of turn: overtaken, given up, failed, asked again and again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.configs.front import Upstream, serving
from tests.deployments.fakes import picture
from tests.deployments.service import Service
from tests.web.browsing import Screen, needs_browser
from tests.web.conftest import Open

pytestmark = needs_browser

SIZE = (60, 90)  # height, width
PICTURE = picture(SIZE)
WORDS = "car, wheel, door"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(Upstream(Service().app)) as upstream:
        yield f"http://127.0.0.1:{upstream.port}"


@pytest.fixture
def screen(address: str, open_page: Open) -> Screen:
    return open_page(address)


def test_the_picture_chosen_last_stays_however_long_others_take_to_read(screen: Screen) -> None:
    screen.page.evaluate(
        """() => {
          const read = createImageBitmap;
          window.createImageBitmap = (...all) => {
            window.createImageBitmap = read;
            return new Promise((done) => (window.goOn = done)).then(() => read(...all));
          };
        }"""
    )
    screen.upload(PICTURE, "slow.png")
    screen.upload(picture((20, 40)), "last.png")
    expect(screen["masks"]).to_have_attribute("aria-label", "last.png, 40 by 20 pixels")
    screen.page.evaluate("goOn()")
    screen["words"].fill("car")
    screen["words"].press("Enter")
    screen.says("1 found")
    expect(screen["masks"]).to_have_attribute("aria-label", "last.png, 40 by 20 pixels")


def test_what_is_clicked_is_of_no_class_that_was_looked_for(screen: Screen) -> None:
    screen.upload(PICTURE)
    screen.ask(WORDS)
    screen.page.get_by_label("wheel", exact=True).uncheck()
    screen["words"].fill("car")  # not asked for yet
    screen.click((45, 30), SIZE)
    screen.refined()
    screen.page.get_by_label("wheel", exact=True).check()
    coco = json.loads(screen.download("save-coco")[1])
    names = {one["id"]: one["name"] for one in coco["categories"]}
    assert [names[one["category_id"]] for one in coco["annotations"]] == ["car", "wheel", "door", "clicked"]


def test_a_click_while_words_are_looked_for_does_not_end_that(screen: Screen) -> None:
    screen.upload(PICTURE)
    held: list[Route] = []
    screen.page.route("**/v1/segment", lambda route: held.append(route))
    screen["words"].fill("car")
    screen["words"].press("Enter")
    expect(screen["status"]).to_contain_text("Looking")
    screen.click((45, 30), SIZE)
    screen.says("Still looking")
    held[0].continue_()
    screen.says("1 found")


def test_points_without_an_answer_are_taken_back_with_the_one_that_overtook_them(screen: Screen) -> None:
    screen.upload(PICTURE)
    screen.ask(WORDS)
    screen.click((45, 30), SIZE)
    screen.page.route("**/v1/masks", lambda route: None)  # never answered
    screen.click((46, 31), SIZE)
    screen.click((47, 32), SIZE)
    expect(screen["status"]).to_contain_text("Refining")
    screen.page.keyboard.press("Escape")
    screen.says("Cancelled")
    expect(screen["undo"]).to_be_disabled()
    assert screen.rows() == ["car", "wheel", "door"]
    screen.click((46, 31), SIZE)
    screen["undo"].click()
    expect(screen["working"]).to_be_hidden()
    expect(screen["status"]).to_have_text("The last point is taken back.")


def test_the_floor_is_that_of_the_answer_on_the_screen(screen: Screen) -> None:
    def cut(route: Route) -> None:
        response = route.fetch()
        answer = response.json()
        answer["removed"]["cap"] = 1  # as if there had been more, below what came
        route.fulfill(response=response, json=answer)

    screen.upload(PICTURE)
    screen.page.route("**/v1/segment", cut)
    screen.ask(WORDS)  # the lowest score is 0.5
    screen.page.unroute("**/v1/segment")
    screen.ask("?")
    screen.says("These words do not work")
    screen["model"].dispatch_event("change")
    screen.slide("box", 0.51)
    expect(screen["floor"]).to_contain_text("nothing below 0.51")
    expect(screen["box"]).to_have_attribute("min", "0.51")
    screen.ask(WORDS)
    expect(screen["box"]).to_have_attribute("min", "0.1")


def test_words_mean_the_same_with_the_picture_and_with_its_id(screen: Screen) -> None:
    words = '["car", "wheel"]'
    screen.upload(PICTURE)
    screen.ask(words)
    screen.says("2 found")
    first = screen.rows()
    screen.ask(words)
    expect(screen["status"]).to_contain_text("2 found")
    assert screen.rows() == first == ['["car"', '"wheel"]']
    assert [json.loads(request.post_data or "")["image"]["type"] for request in screen.requests] == ["base64", "id"]


def test_two_thousand_classes_fit_and_are_not_all_repeated(screen: Screen) -> None:
    words = ", ".join(f"red circle {number}" for number in range(2000))
    screen.upload(PICTURE)
    screen.page.route("**/v1/segment", lambda route: None)
    screen["words"].focus()
    screen.page.keyboard.insert_text(words)
    screen["words"].press("Enter")
    screen.says("Looking for")
    assert screen["words"].input_value() == words
    assert len(screen["status"].inner_text()) < 120


def test_a_sample_that_does_not_come_is_no_damaged_picture(screen: Screen) -> None:
    sample = screen.page.locator("#samples button").first
    screen.page.route("**/sample-1.png", lambda route: route.fulfill(status=503, body="gone"))
    sample.click()
    screen.says("does not answer")
    screen.page.unroute("**/sample-1.png")
    screen.page.context.set_offline(True)
    sample.click()
    screen.says("cannot be reached")


def test_an_answer_from_a_stranger_is_said_to_be_one(screen: Screen) -> None:
    screen.upload(PICTURE)
    later = {"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}
    answers: list[tuple[dict[str, Any], str]] = [
        ({"status": 200, "body": '{"id":'}, "cannot read"),
        ({"status": 418, "body": "<html>"}, "cannot read"),
        ({"status": 429, "headers": later}, "in a moment"),
    ]
    script = [answer for answer, _ in answers]
    screen.page.route("**/v1/segment", lambda route: route.fulfill(**script.pop(0)))
    for _, words in answers:
        screen.ask("car")
        screen.says(words)


def test_masks_of_earlier_answers_are_let_go(screen: Screen) -> None:
    devtools = screen.page.context.new_cdp_session(screen.page)

    def canvases() -> int:
        for _ in range(2):
            devtools.send("HeapProfiler.collectGarbage")
        kind = devtools.send("Runtime.evaluate", {"expression": "HTMLCanvasElement.prototype", "objectGroup": "all"})
        prototype = {"prototypeObjectId": kind["result"]["objectId"], "objectGroup": "all"}
        alive = devtools.send("Runtime.queryObjects", prototype)["objects"]["description"]
        devtools.send("Runtime.releaseObjectGroup", {"objectGroup": "all"})
        return int(alive.removeprefix("Array(").removesuffix(")"))

    screen.upload(PICTURE)
    counts = []
    for _ in range(3):
        screen.ask(WORDS)
        counts.append(canvases())
    assert counts == [2 + 3] * 3
