"""Every limit of a request, over HTTP: what the service publishes is taken, and one more is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
import numpy as np
import pytest

from pipeline.formats.low_res import low_res_json
from pipeline.image import ImageLimits
from tests.deployments.fakes import base64, picture
from tests.deployments.service import PICTURE, Service, refusal

IMAGES = ImageLimits(max_bytes=50_000, max_pixels=40_000)  # a row of 32,768 pixels fits
BOX = [1, 2, 11, 12]
POINT = [10, 10, 1]

Ask = Callable[[Service, int], httpx.Response]


@dataclass(frozen=True)
class Limit:
    """One way to ask for `n` of something.

    Attributes:
        name: in `x-limits`.
        refused: status and code of one too many.
        param: of that refusal.
        at_limit: status of what is just taken; where it is not 200, it is refused for something else.
    """

    name: str
    ask: Ask
    refused: tuple[int, str] = (422, "invalid_value")
    param: str | None = None
    at_limit: int = 200


def detect(service: Service, **fields: Any) -> httpx.Response:
    return service.request("POST", "/v1/detect", json={"image": base64(PICTURE), "prompt": "car", **fields})


def padded(size: int) -> bytes:
    return PICTURE + bytes(size - len(PICTURE))  # what follows the end of a PNG is not read


def long_list(characters: int) -> list[str]:
    """Classes of 2,000 characters, and one of what is left."""
    return ["a" * 2000] * (characters // 2000) + ["b" * (characters % 2000)] * (characters % 2000 > 0)


def body_of(size: int, prompt: dict[str, Any]) -> bytes:
    text = json.dumps({"image": base64(PICTURE), **prompt}).encode()
    return text + b" " * (size - len(text))


def form_of(size: int, field: str, value: str) -> bytes:
    """A form of `size` bytes: what is left is white space in the JSON `value`, where it has a `~`."""

    def form(text: str) -> bytes:
        parts = (('image"; filename="a.png', PICTURE), (field, text.encode()))
        head = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        return b"".join(head % (name.encode(), data) for name, data in parts) + b"--x--\r\n"

    return form(value.replace("~", " " * (size - len(form(value)) + 1)))


def send_form(service: Service, size: int, path: str, field: str, value: str) -> httpx.Response:
    return service.raw(form_of(size, field, value), "multipart/form-data; boundary=x", path)


def form_parts(service: Service, count: int) -> httpx.Response:
    body = b"".join(b'--x\r\nContent-Disposition: form-data; name="f%d"\r\n\r\na\r\n' % n for n in range(count))
    return service.raw(body + b"--x--\r\n", "multipart/form-data; boundary=x")


def many_values(service: Service, count: int) -> httpx.Response:
    return service.raw(b"[" + b"0," * (count - 1) + b"0]")


def many_strings(service: Service, quotes: int) -> httpx.Response:
    """A list of strings; of one that ends in a backslash a quote is not counted."""
    return service.raw(json.dumps([""] * (quotes // 2) + ["\\"] * (quotes % 2)).encode())


def many_names(count: int) -> dict[str, int]:
    return {f"name {number}": number for number in range(count)}


def nothings(count: int) -> list[str]:
    return [f"nothing {number}" for number in range(count)]


def by_tiles(service: Service, tiles: int, classes: int = 1, **fields: Any) -> httpx.Response:
    """Boxes in a row of so many tiles, for so many classes, of which there is nothing in the image."""
    image = base64(picture((1, 64 + 48 * (tiles - 1))))
    return detect(service, image=image, tile={"size": 64, "overlap": 16}, prompt=nothings(classes), **fields)


def class_tiles(service: Service, product: int, negatives: int = 0) -> httpx.Response:
    tiles = next(count for count in range(256, 0, -1) if product % count == 0)
    more = {"negative_prompt": nothings(negatives)} if negatives else {}
    return by_tiles(service, tiles, product // tiles - negatives, **more)


TOO_LARGE, TOO_LONG, MALFORMED = (413, "image_too_large"), (413, "body_too_large"), (400, "malformed_request")

LIMITS = [
    Limit("image_bytes", lambda s, n: s.form(padded(n)), TOO_LARGE, "image"),
    Limit("image_bytes", lambda s, n: s.json(image=base64(padded(n))), TOO_LARGE, "image"),
    Limit("image_bytes", lambda s, n: s.masks(image=base64(padded(n)), boxes=[BOX]), TOO_LARGE, "image"),
    Limit("image_pixels", lambda s, n: s.form(picture((2, -(-n // 2)))), TOO_LARGE, "image"),
    Limit("image_pixels", lambda s, n: s.json(image=base64(picture((-(-n // 2), 2)))), TOO_LARGE, "image"),
    Limit("image_side", lambda s, n: s.form(picture((1, n))), TOO_LARGE, "image"),
    Limit("image_side", lambda s, n: s.json(image=base64(picture((n, 1)))), TOO_LARGE, "image"),
    Limit("segment_json_bytes", lambda s, n: s.raw(body_of(n, {"prompt": "car"})), TOO_LONG),
    Limit("segment_json_bytes", lambda s, n: s.raw(body_of(n, {"prompt": "car"}), path="/v1/detect"), TOO_LONG),
    Limit("masks_json_bytes", lambda s, n: s.raw(body_of(n, {"boxes": [BOX]}), path="/v1/masks"), TOO_LONG),
    Limit("segment_form_bytes", lambda s, n: send_form(s, n, "/v1/segment", "prompt", '["car"~]'), TOO_LONG),
    Limit("masks_form_bytes", lambda s, n: send_form(s, n, "/v1/masks", "boxes", "[[1, 2, 11, 12]~]"), TOO_LONG),
    Limit("json_depth", lambda s, n: s.raw(b"[" * n + b"]" * n), MALFORMED, at_limit=422),
    Limit("json_depth", lambda s, n: s.raw(b'{"a":' * n + b"1" + b"}" * n), MALFORMED, at_limit=422),
    Limit(
        "json_depth",
        lambda s, n: s.raw(b'[{"a":' * (n // 2) + b"[]" * (n % 2) + b"1" * (1 - n % 2) + b"}]" * (n // 2)),
        MALFORMED,
        at_limit=422,
    ),
    Limit("json_values", many_values, TOO_LONG, at_limit=422),
    Limit("json_quotes", many_strings, TOO_LONG, at_limit=422),
    Limit("json_names", lambda s, n: s.raw(json.dumps(many_names(n)).encode()), MALFORMED, at_limit=422),
    Limit("json_names", lambda s, n: detect(s, prompt=["a", many_names(n)]), MALFORMED, at_limit=422),
    Limit("json_names", lambda s, n: s.form(tile=json.dumps(many_names(n))), param="tile", at_limit=422),
    Limit("form_parts", form_parts, MALFORMED, at_limit=422),
    Limit("classes", lambda s, n: detect(s, prompt=[f"kind {i}" for i in range(n)]), param="prompt"),
    Limit("classes", lambda s, n: detect(s, prompt=",".join(f"kind {i}" for i in range(n))), param="prompt"),
    Limit("classes", lambda s, n: detect(s, negative_prompt=["a"] * n), param="negative_prompt"),
    Limit("classes", lambda s, n: detect(s, prompt=["a"] * n, negative_prompt=["b"] * n), param="prompt"),
    Limit("classes", lambda s, n: detect(s, negative_prompt="a," * n), param="negative_prompt"),
    Limit("classes", lambda s, n: s.form(prompt=json.dumps(["a"] * n), masks="none"), param="prompt"),
    Limit("class_characters", lambda s, n: detect(s, prompt=["a" * n]), param="prompt[0]"),
    Limit("class_characters", lambda s, n: detect(s, prompt=["b", {"text": "a" * n}]), param="prompt[1].text"),
    Limit("prompt_characters", lambda s, n: detect(s, prompt="a" * n), param="prompt"),
    Limit("prompt_characters", lambda s, n: detect(s, prompt="a" * n, mode="phrase"), param="prompt"),
    Limit("prompt_characters", lambda s, n: detect(s, prompt=long_list(n)), param="prompt"),
    Limit("prompt_characters", lambda s, n: detect(s, negative_prompt=long_list(n)), param="negative_prompt"),
    Limit("detections", lambda s, n: s.json(max_detections=n), param="max_detections"),
    Limit("detections", lambda s, n: s.form(max_detections=str(n)), param="max_detections"),
    Limit("tile_size", lambda s, n: s.json(tile={"size": n, "overlap": 16}), param="tile.size"),
    Limit("tile_size", lambda s, n: s.form(tile=json.dumps({"size": n, "overlap": 16})), param="tile.size"),
    Limit("tile_overlap", lambda s, n: s.json(tile={"size": 4096, "overlap": n}), param="tile.overlap"),
    Limit("tiles", by_tiles, param="tile"),
    Limit("class_tiles", class_tiles, param="tile"),
    Limit("class_tiles", lambda s, n: class_tiles(s, n, negatives=5), param="tile"),
    Limit("instances", lambda s, n: s.masks(boxes=[BOX] * n), param="boxes"),
    Limit("instances", lambda s, n: s.masks(points=[[POINT]] * n), param="points"),
    Limit("instances", lambda s, n: s.masks_form(boxes=json.dumps([BOX] * n)), param="boxes"),
    Limit("points", lambda s, n: s.masks(points=[POINT] * n), param="points"),
    Limit("points", lambda s, n: s.masks(points=[[POINT], [POINT] * n]), param="points[1]"),
    Limit("low_res_instances", lambda s, n: s.masks(boxes=[BOX] * n, low_res=True), param="low_res"),
    Limit("low_res_instances", lambda s, n: s.masks(boxes=[BOX] * n, mask_input=[logits(4)] * n), param="mask_input"),
    Limit("low_res_side", lambda s, n: s.masks(boxes=[BOX], mask_input=[logits(n)]), param="mask_input[0].shape[0]"),
]
# test_arrival.py, test_http.py and test_tiles.py: no status of their own at the limit
ELSEWHERE = {"body_seconds", "request_seconds", "tile_masks"}


def logits(side: int) -> dict[str, Any]:
    return low_res_json(np.zeros((side, side), np.float16))


def service() -> Service:
    return Service(limits=IMAGES)


@cache
def document() -> dict[str, Any]:
    found: dict[str, Any] = service().request("GET", "/openapi.json").json()
    return found


@pytest.mark.parametrize("limit", LIMITS, ids=[f"{limit.name}-{number}" for number, limit in enumerate(LIMITS)])
def test_what_is_published_is_taken_and_one_more_is_refused(limit: Limit) -> None:
    most = document()["x-limits"][limit.name]["maximum"]
    taken = limit.ask(service(), most)
    assert taken.status_code == limit.at_limit, taken.text
    over = service()
    error = refusal(limit.ask(over, most + 1), *limit.refused)
    assert error["param"] == limit.param
    assert over.stages.calls == []
    if limit.name != "json_names" or error["param"] is None:  # what is wrong within a form's field is its value
        assert limit.refused[1] == document()["x-limits"][limit.name]["error"]
    if limit.at_limit != 200:
        assert taken.json()["error"]["message"] != error["message"]


def test_every_published_limit_is_in_the_table() -> None:
    assert {limit.name for limit in LIMITS} | ELSEWHERE == set(document()["x-limits"])


def test_the_answer_has_no_more_detections_than_the_cap() -> None:
    for most in (1, 7):
        found = detect(service(), prompt=[f"kind {i}" for i in range(8)], max_detections=most).json()
        assert len(found["detections"]) == most
        assert found["removed"]["cap"] == 8 - most
