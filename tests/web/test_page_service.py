"""The page in Chromium, with the real service and the embedded model behind it."""

from __future__ import annotations

import json
import os
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from pycocotools.coco import COCO

from pipeline.masks import decode
from pipeline.palette import class_colour
from pipeline.result import Result
from pipeline.stages import RLE, UInt8Array
from tests.deployments.test_serve import PROMPT, SCENE, scene
from tests.web.browsing import Screen, needs_browser
from tests.web.conftest import Open

pytestmark = [
    needs_browser,
    pytest.mark.slow,
    # pycocotools 2.0.11 on numpy 2.4.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

SIZE = (300, 400)  # height, width
SAMPLE = Path(__file__).parents[2] / "deployments" / "web" / "sample-1.png"
CROWD = "blue cross, yellow cross, white triangle, blue triangle, white ring"
SCREENSHOT = Path(__file__).parents[2] / "docs" / "images" / "page.png"


@pytest.fixture
def screen(service: str, open_page: Open) -> Screen:
    return open_page(service)


def found(screen: Screen, picture: bytes, words: str) -> dict[str, Any]:
    """Ask, as a person does; the service's answer."""
    screen.upload(picture)
    with screen.page.expect_response("**/v1/segment") as waiting:
        screen.ask(words)
    screen.says("found")
    answer: dict[str, Any] = waiting.value.json()
    return answer


def clear_of_edges(mask: Any, reach: int = 2) -> Any:
    """Pixels all of whose neighbours are like them: there, an outline and the scaling to the screen do not matter."""
    like = np.ones(mask.shape, bool)
    padded = np.pad(mask, reach, mode="edge")
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            height, width = mask.shape
            like &= padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width] == mask
    return like


def test_from_an_upload_to_the_masks_of_its_shapes(screen: Screen) -> None:
    answer = found(screen, SCENE, PROMPT)
    seen = screen.masks_at(SIZE)
    shown = [one for one in answer["detections"] if one["score"] >= 0.3 and one["text_score"] >= 0.25]
    assert {one["label"] for one in shown} == {*PROMPT.split(", ")}
    any_mask = np.zeros(SIZE, bool)
    for one in shown:
        mask = decode(RLE(tuple(one["mask"]["size"]), one["mask"]["counts"]))
        inside = mask & clear_of_edges(mask, 4)
        assert np.abs(seen[inside][:, :3].astype(int) - class_colour(one["class_id"])).max() <= 2, one["label"]
        any_mask |= mask
    plain = clear_of_edges(any_mask)
    assert ((seen[..., 3] > 0) == any_mask)[plain].all()
    drawn = np.asarray(scene()).astype(int)
    truth = np.abs(drawn - (200, 200, 195)).sum(2) > 60  # the shapes, as they were drawn
    assert ((seen[..., 3] > 0) == truth).mean() > 0.98


def in_browser(screen: Screen, candidates: list[dict[str, Any]], thresholds: list[tuple[float, float]]) -> Any:
    return screen.page.evaluate(
        """async ([candidates, thresholds]) => {
          const { select } = await import("./static/page/selection.js");
          return thresholds.map(([box, text]) => select(candidates, box, text));
        }""",
        [candidates, thresholds],
    )


def test_the_browser_selects_what_the_service_would_answer(screen: Screen, service: str) -> None:
    thresholds = [(0.1, 0.0), (0.15, 0.1), (0.3, 0.25), (0.5, 0.6), (0.9, 0.0)]

    def ask(**fields: str) -> dict[str, Any]:
        files = {"image": SAMPLE.read_bytes()}
        data = {"prompt": CROWD, **fields}
        with httpx.Client(base_url=service, trust_env=False, timeout=120) as client:
            response = client.post("/v1/detect", files=files, data=data).raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    low = ask(box_threshold="0.1", text_threshold="0", nms="off", max_detections="200")["detections"]
    removed = []
    for (box, text), mine in zip(thresholds, in_browser(screen, low, thresholds), strict=True):
        theirs = ask(box_threshold=str(box), text_threshold=str(text))
        assert [one["class_id"] for one in mine["kept"]] == [one["class_id"] for one in theirs["detections"]]
        for ours, other in zip(mine["kept"], theirs["detections"], strict=True):
            assert np.allclose(ours["box"], other["box"], atol=0.05)
            assert abs(ours["score"] - other["score"]) < 1e-3
        assert mine["removed"] == theirs["removed"]
        removed.append(theirs["removed"]["nms"])
    assert max(removed) > 0, "the scene is too easy: NMS had nothing to remove"


def test_points_refine_an_instance_and_all_of_it_is_saved(screen: Screen) -> None:
    size, arm = (480, 640), (90, 125)  # an arm of the blue cross, which its box leaves out
    found(screen, SAMPLE.read_bytes(), CROWD)
    screen.page.get_by_label("white ring", exact=True).uncheck()
    before = screen.masks_at(size)[..., 3] > 0
    assert not before[arm[1], arm[0]]
    screen.click((100, 260), size)
    expect(screen["stage-help"]).to_contain_text("blue cross")
    screen.click(arm, size)
    screen.refined()
    screen.page.keyboard.press("Escape")  # lets go: box and points are drawn no more
    after = screen.masks_at(size)[..., 3] > 0
    assert after[arm[1], arm[0]]
    assert (after & ~before).sum() > 1000

    name, data = screen.download("save-json")
    result = Result.from_json(json.loads(data))
    assert name == "scene-answer.json"
    assert {*result.labels} == {*CROWD.split(", ")} - {"white ring"}
    union = np.logical_or.reduce(result.masks)
    assert (union == after)[clear_of_edges(union)].all()

    name, data = screen.download("save-masks")
    with zipfile.ZipFile(BytesIO(data)) as saved:
        assert saved.testzip() is None
        pictures: list[UInt8Array] = [np.asarray(Image.open(saved.open(one))) for one in saved.namelist()]
        assert [one[4:] for one in saved.namelist()] == [f"{label.replace(' ', '-')}.png" for label in result.labels]
    for picture, mask in zip(pictures, result.masks, strict=True):
        assert np.array_equal(picture, mask * np.uint8(255))

    _, data = screen.download("save-coco")
    coco = COCO()
    coco.dataset = json.loads(data)
    coco.createIndex()
    for annotation, mask in zip(coco.loadAnns(coco.getAnnIds()), result.masks, strict=True):
        assert np.array_equal(coco.annToMask(annotation).astype(bool), mask)
        assert annotation["area"] == mask.sum()
    assert {one["name"] for one in coco.dataset["categories"]} == {*result.labels}

    _, data = screen.download("save-png")
    drawn = np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)
    changed = np.abs(drawn - np.asarray(Image.open(SAMPLE).convert("RGB"))).sum(2) > 12
    assert np.array_equal(changed & clear_of_edges(union), union & clear_of_edges(union))

    screen.page.get_by_label("Refine blue cross", exact=True).click()
    screen["reset"].click()
    screen["done"].click()
    screen["words"].hover()
    assert np.array_equal(screen.masks_at(size)[..., 3] > 0, before)


def test_a_sample_is_one_click_away(service: str, open_page: Open) -> None:
    screen = open_page(service)
    expect(screen["tiny"]).to_be_visible()
    screen.page.locator("#samples button").first.click()
    screen.says("5 found")
    assert sorted(screen.rows()) == sorted(CROWD.split(", "))


@pytest.mark.skipif(
    "TEXT2MASK_SCREENSHOT" not in os.environ, reason="TEXT2MASK_SCREENSHOT=1 draws docs/images/page.png"
)
def test_screenshot(service: str, open_page: Open) -> None:
    screen = open_page(service, viewport={"width": 1200, "height": 820})
    screen.page.locator("#samples button").last.click()
    screen.says("found")
    screen["masks"].hover(position={"x": 240, "y": 230})
    Image.open(BytesIO(screen.page.screenshot())).convert("RGB").save(SCREENSHOT, optimize=True)
