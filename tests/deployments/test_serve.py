"""The real service over HTTP: Ray Serve, the embedded model, real pictures. One app for all tests here."""

from __future__ import annotations

import importlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.bundle import resolve
from pipeline.errors import StageError
from pipeline.formats.low_res import low_res_json
from pipeline.image import decode
from pipeline.mask_result import MaskResult
from pipeline.result import Result
from pipeline.stages import DetectRequest, TextClass
from tests.deployments.fakes import base64, picture

pytestmark = pytest.mark.slow

PROMPT = "red circle, blue square, green triangle"


def scene(width: int = 400, height: int = 300, mode: str = "RGB") -> Image.Image:
    """A red circle, a blue square and a green triangle on light grey."""
    image = Image.new("RGB", (width, height), (200, 200, 195))
    draw = ImageDraw.Draw(image)
    radius = min(width, height) // 7

    def around(x: float, y: float) -> tuple[float, float, float, float]:
        return (width * x - radius, height * y - radius, width * x + radius, height * y + radius)

    draw.ellipse(around(0.2, 0.3), fill=(215, 35, 35))
    draw.rectangle(around(0.55, 0.6), fill=(30, 80, 210))
    x0, y0, x1, y1 = around(0.83, 0.3)
    draw.polygon([(x0, y1), (x1, y1), ((x0 + x1) / 2, y0)], fill=(40, 160, 60))
    return image.convert(mode)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


SCENE = encoded(scene())


def ask(client: httpx.Client, image: bytes = SCENE, prompt: str = PROMPT, **fields: str) -> Result:
    """The answer to a form."""
    response = client.post("/v1/segment", files={"image": image}, data={"prompt": prompt, **fields})
    assert response.status_code == 200, response.text
    return Result.from_json(response.json())


def assert_same(answer: Result, reference: Result) -> None:
    """Equal as DESIGN promises for a result whatever its batch-mates.

    Each detection of one has its twin in the other; one whose score is within the tolerance of a threshold need not.
    """
    assert answer.image_size == reference.image_size
    assert answer.model == reference.model
    assert answer.passes == reference.passes
    for found, other in ((answer, reference), (reference, answer)):
        free = set(range(len(other)))
        masks = list(other.iter_masks())
        for row, mask in enumerate(found.iter_masks()):
            twins = [one for one in free if _is_twin(found, row, mask, other, one, masks[one])]
            if twins:
                free.discard(twins[0])
            else:
                assert _is_at_threshold(found, row), f"{found.labels[row]} {found.scores[row]} has no twin"


def _is_twin(found: Result, row: int, mask: Any, other: Result, one: int, its_mask: Any) -> bool:
    return (
        found.labels[row] == other.labels[one]
        and abs(float(found.scores[row] - other.scores[one])) < 1e-3
        and float(np.abs(found.boxes[row] - other.boxes[one]).max()) < 0.1
        and int((mask != its_mask).sum()) <= max(2, 0.001 * int(its_mask.sum()))
    )


def _is_at_threshold(found: Result, row: int) -> bool:
    bundle = resolve("tiny", "detector")
    margins = (found.scores[row] - bundle.box_threshold, found.text_scores[row] - bundle.text_threshold)
    return any(abs(float(margin)) < 1e-3 for margin in margins)


def test_the_answer_is_the_in_process_one(client: httpx.Client, in_process: Any) -> None:
    answer = ask(client)
    assert_same(answer, in_process.predict(SCENE, PROMPT))
    assert len(answer) > 0
    assert set(answer.timings_ms) == {"detect", "encode", "masks", "total"}


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(encoded(scene(), "JPEG", quality=95), id="jpeg"),
        pytest.param(encoded(scene(), "WEBP", lossless=True), id="webp"),
        pytest.param(encoded(scene(mode="RGBA")), id="rgba"),
        pytest.param(encoded(scene(mode="P")), id="palette"),
        pytest.param(encoded(scene(mode="L")), id="grey"),
        pytest.param(encoded(scene(mode="CMYK"), "JPEG", quality=95), id="cmyk"),
        pytest.param(encoded(scene().convert("I;16")), id="16-bit"),
    ],
)
def test_every_format_gives_the_in_process_answer(client: httpx.Client, in_process: Any, image: bytes) -> None:
    assert_same(ask(client, image), in_process.predict(image, PROMPT))


def test_exif_is_applied_once(client: httpx.Client) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown upright after a quarter turn clockwise
    turned = encoded(scene().transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    upright = ask(client, encoded(scene(), "JPEG", quality=95))
    answer = ask(client, turned)
    assert answer.image_size == (300, 400)
    assert sorted(answer.labels) == sorted(upright.labels)
    for label, box in zip(upright.labels, upright.boxes, strict=True):
        np.testing.assert_allclose(answer.boxes[answer.labels.index(label)], box, atol=6)


def test_json_and_form_and_options_agree(client: httpx.Client, in_process: Any) -> None:
    body = {
        "image": base64(SCENE),
        "prompt": ["red circle", {"text": "blue square", "box_threshold": 0.2}],
        "multimask": True,
        "max_detections": 1,
    }
    response = client.post("/v1/segment", json=body, headers={"x-request-id": "request-7"})
    assert response.json()["id"] == "request-7"
    assert response.headers.get_list("x-request-id") == ["request-7"]
    answer = Result.from_json(response.json())
    assert len(answer) == 1
    assert_same(answer, in_process.predict(SCENE, body["prompt"], multimask=True, max_detections=1))


def test_tiles_give_the_in_process_answer(client: httpx.Client, in_process: Any) -> None:
    tile = {"size": 240, "overlap": 110}
    response = client.post("/v1/segment", json={"image": base64(SCENE), "prompt": PROMPT, "tile": tile})
    answer = Result.from_json(response.json())
    assert answer.passes == 2 * 3
    assert len(answer) > 0
    assert_same(answer, in_process.predict(SCENE, PROMPT, tile=tile))


PROMPTS: dict[str, dict[str, Any]] = {
    "boxes": {"boxes": [[20, 30, 140, 150.5], [150, 90, 310, 270]]},
    "points": {"points": [[80, 90, 1], [300, 20, 0]]},
    "both": {"boxes": [[20, 30, 140, 150], [0, 0, 400, 300]], "points": [[[80, 90, 1], [10, 10, 0]], []]},
    "beyond the image": {"boxes": [[-30, 20, 500, 400]]},
}


def ask_for_masks(client: httpx.Client, image: bytes = SCENE, **fields: Any) -> MaskResult:
    """The answer to a JSON body."""
    response = client.post("/v1/masks", json={"image": base64(image), **fields})
    assert response.status_code == 200, response.text
    return MaskResult.from_json(response.json())


def assert_same_masks(answer: MaskResult, reference: MaskResult) -> None:
    """Equal as DESIGN promises for a result whatever its batch-mates."""
    assert len(answer) == len(reference)
    assert (answer.image_size, answer.model, answer.warnings) == (
        reference.image_size,
        reference.model,
        reference.warnings,
    )
    np.testing.assert_allclose(answer.boxes, reference.boxes, atol=1)  # a mask's own box moves with its pixels
    np.testing.assert_allclose(answer.mask_scores, reference.mask_scores, atol=1e-3)
    for ours, theirs in zip(answer.iter_masks(), reference.iter_masks(), strict=True):
        assert int((ours != theirs).sum()) <= max(2, 0.001 * int(theirs.sum()))
    assert (answer.low_res is None) == (reference.low_res is None)
    if answer.low_res is not None and reference.low_res is not None:
        np.testing.assert_allclose(answer.low_res, reference.low_res, rtol=2e-3, atol=5e-2)
    assert (answer.alternatives is None) == (reference.alternatives is None)
    for one, other in zip(answer.alternatives or (), reference.alternatives or (), strict=True):
        assert_same_masks(one, other)


@pytest.mark.parametrize("name", PROMPTS)
def test_masks_for_prompts_are_the_in_process_ones(client: httpx.Client, in_process: Any, name: str) -> None:
    """All three masks, as JSON; then the logits go back in, as a form."""
    prompts = PROMPTS[name]
    first = ask_for_masks(client, **prompts, multimask=True, low_res=True)
    reference = in_process.masks(SCENE, **prompts, multimask=True, low_res=True)
    assert_same_masks(first, reference)
    fields = {field: json.dumps(value) for field, value in prompts.items()}
    fields["mask_input"] = json.dumps([low_res_json(one) for one in reference.low_res])
    response = client.post("/v1/masks", files={"image": SCENE}, data=fields)
    refined = in_process.masks(SCENE, **prompts, mask_input=reference.low_res)
    assert_same_masks(MaskResult.from_json(response.json()), refined)


def test_masks_and_text_at_once(client: httpx.Client, in_process: Any, threads: ThreadPoolExecutor) -> None:
    """Prompts of every layout, of words too, share the decoder's batches; one request takes two of them."""
    corners = np.random.default_rng(0).uniform(0, 140, (90, 2))
    many = np.concatenate((corners, corners + 60), 1).tolist()
    orders = [*PROMPTS.values(), {"boxes": many, "multimask": True}, *PROMPTS.values()]
    masks = [threads.submit(ask_for_masks, client, SCENE, **order) for order in orders]
    words = [threads.submit(ask, client) for _ in range(2)]
    for order, future in zip(orders, masks, strict=True):
        assert_same_masks(future.result(), in_process.masks(SCENE, **order))
    for answer in words:
        assert_same(answer.result(), in_process.predict(SCENE, PROMPT))


def test_prompts_that_may_not_be(client: httpx.Client) -> None:
    low_res = low_res_json(np.zeros((64, 64), np.float16))  # of another model
    for fields, param in (
        ({"boxes": [[500, 0, 600, 50]]}, "boxes[0]"),
        ({"points": [[10, 10, 2]]}, "points[0]"),
        ({"points": [[10, 10, 1]], "mask_input": [low_res]}, "mask_input"),
    ):
        response = client.post("/v1/masks", json={"image": base64(SCENE), **fields})
        assert (response.status_code, response.json()["error"]["param"]) == (422, param)


def test_nothing_found_is_an_empty_list(client: httpx.Client) -> None:
    answer = ask(client, box_threshold="1")
    assert len(answer) == 0
    assert answer.rles == ()


def test_without_masks(client: httpx.Client) -> None:
    answer = ask(client, masks="none")
    assert len(answer) > 0
    assert answer.rles is None


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "json": ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "malformed_request"),
    "nan": (
        {"content": b'{"box_threshold": NaN}', "headers": {"content-type": "application/json"}},
        400,
        "malformed_request",
    ),
    "multipart": (
        {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        400,
        "malformed_request",
    ),
    "media type": ({"content": b"a=b", "headers": {"content-type": "text/plain"}}, 415, "unsupported_media_type"),
    "no image": ({"json": {"prompt": "car"}}, 422, "invalid_value"),
    "no prompt": ({"json": {"image": base64(SCENE)}}, 422, "invalid_value"),
    "empty prompt": ({"json": {"image": base64(SCENE), "prompt": " . "}}, 422, "invalid_value"),
    "too many tokens": ({"json": {"image": base64(SCENE), "prompt": ["car " * 300]}}, 422, "invalid_value"),
    "too many classes": ({"json": {"image": base64(SCENE), "prompt": ["car"] * 2001}}, 422, "invalid_value"),
    "threshold": ({"json": {"image": base64(SCENE), "prompt": "car", "box_threshold": 1.5}}, 422, "invalid_value"),
    "unknown field": ({"json": {"image": base64(SCENE), "prompt": "car", "colour": "red"}}, 422, "invalid_value"),
    "url": ({"json": {"image": {"type": "url", "value": "https://127.1"}, "prompt": "car"}}, 403, "url_not_allowed"),
    "model": ({"json": {"image": base64(SCENE), "prompt": "car", "model": "../tiny"}}, 404, "unknown_model"),
    "gif": ({"files": {"image": encoded(scene(), "GIF")}, "data": {"prompt": "car"}}, 415, "image_format_not_allowed"),
    "text": ({"files": {"image": b"just text"}, "data": {"prompt": "car"}}, 415, "image_format_not_allowed"),
    "no bytes": ({"files": {"image": b""}, "data": {"prompt": "car"}}, 422, "image_undecodable"),
    "cut in its header": ({"files": {"image": SCENE[:20]}, "data": {"prompt": "car"}}, 422, "image_undecodable"),
    "cut in its pixels": (
        {"files": {"image": SCENE[: len(SCENE) // 2]}, "data": {"prompt": "car"}},
        422,
        "image_undecodable",
    ),
    "too many pixels": (
        {"files": {"image": picture((8000, 8000), mode="1")}, "data": {"prompt": "car"}},
        413,
        "image_too_large",
    ),
    "too many bytes": (
        {"files": {"image": SCENE + bytes(32 * 2**20)}, "data": {"prompt": "car"}},
        413,
        "image_too_large",
    ),
    "body too large": (
        {"content": bytes(50 * 2**20), "headers": {"content-type": "application/json"}},
        413,
        "body_too_large",
    ),
    "timeout": (
        {"files": {"image": SCENE}, "data": {"prompt": "car"}, "headers": {"x-request-timeout-seconds": "-1"}},
        422,
        "invalid_value",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_its_status_and_the_service_goes_on(client: httpx.Client, name: str) -> None:
    options, status, code = BAD[name]
    response = client.post("/v1/segment", **options)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert client.get("/healthz").status_code == 200


def test_after_all_bad_input_the_answer_is_still_right(client: httpx.Client, in_process: Any) -> None:
    for options, status, _ in BAD.values():
        assert client.post("/v1/segment", **options).status_code == status
    assert_same(ask(client), in_process.predict(SCENE, PROMPT))


def test_routes_beside_the_main_one(client: httpx.Client) -> None:
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.get("/v1/models").json()["models"][0]["name"] == "tiny+tiny"
    for method, path, status, code in (
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/segment", 405, "method_not_allowed"),
        ("PUT", "/healthz", 405, "method_not_allowed"),
    ):
        response = client.request(method, path)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_concurrent_mixed_requests_get_their_own_in_process_answers(client: httpx.Client, in_process: Any) -> None:
    sizes = [(400, 300), (300, 400), (640, 480), (257, 511)]
    prompts = [PROMPT, "circle", "red circle, red square, star", "green triangle, blue square"]
    orders = [(encoded(scene(*size)), prompt) for size in sizes for prompt in prompts]
    references = [in_process.predict(*order) for order in orders]
    bad = BAD["cut in its pixels"]
    with ThreadPoolExecutor(12) as threads:
        good = [threads.submit(ask, client, *order) for order in orders for _ in range(2)]
        refused = [threads.submit(client.post, "/v1/segment", **bad[0]) for _ in range(6)]
        for index, future in enumerate(good):
            assert_same(future.result(), references[index // 2])
        assert [future.result().status_code for future in refused] == [bad[1]] * 6


def test_a_deadline_that_is_too_short_is_408_and_the_service_goes_on(client: httpx.Client) -> None:
    large = encoded(scene(4000, 3000), "JPEG")
    response = client.post(
        "/v1/segment",
        files={"image": large},
        data={"prompt": PROMPT, "box_threshold": "0", "text_threshold": "0", "nms": "off"},
        headers={"x-request-timeout-seconds": "0.3"},
    )
    assert response.status_code == 408
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert len(ask(client)) > 0


class Replica:
    """The one replica of a deployment of the running app."""

    def __init__(self, deployment: str) -> None:
        ray: Any = importlib.import_module("ray")
        self._get = ray.get
        self._prefix = f"SERVE_REPLICA::text2mask#{deployment}#"
        name = self._names()[0]
        self._actor = ray.get_actor(name, namespace="serve")
        self.pid: int = self._get(self._actor.__ray_call__.remote(lambda actor: os.getpid()))

    def _names(self) -> list[str]:
        from ray.util import list_named_actors

        return [
            entry["name"] for entry in list_named_actors(all_namespaces=True) if entry["name"].startswith(self._prefix)
        ]

    def ongoing(self) -> int:
        return int(self._get(self._actor.get_num_ongoing_requests.remote()))


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Ask again and again; fail when it takes too long."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.mark.parametrize("deployment", ["detector-tiny", "image-encoder-tiny", "mask-decoder-tiny"])
def test_a_replica_killed_under_a_request_costs_time_only(
    client: httpx.Client, in_process: Any, threads: ThreadPoolExecutor, deployment: str
) -> None:
    # Large, and with every candidate kept, so that each stage has something to do for a while; and a picture of its own
    # for each stage, since the image encoder remembers.
    image = encoded(scene(3000, 2400 + len(deployment)), "PNG", compress_level=1)
    options = {"box_threshold": "0", "text_threshold": "0", "nms": "off"}
    replica = Replica(deployment)
    request: Future[Result] = threads.submit(ask, client, image, PROMPT, **options)
    until(lambda: replica.ongoing() > 0)
    os.kill(replica.pid, signal.SIGKILL)
    assert not request.done(), "the request was through before the replica was killed"
    wait([request], timeout=100)
    reference = in_process.predict(decode(image), PROMPT, box_threshold=0.0, text_threshold=0.0, nms="off")
    assert len(request.result()) == len(reference)
    assert_same(ask(client), in_process.predict(SCENE, PROMPT))
    until(lambda: client.get("/readyz").status_code == 200)


@pytest.mark.parametrize(
    ("deployment", "method", "arguments"),
    [
        ("detector-tiny", "detect", (b"no image", DetectRequest((TextClass(0, "star", "star"),)))),
        ("image-encoder-tiny", "recall", ("unknown",)),
    ],
)
def test_a_stages_call_is_one_message_and_one_answer(
    service: str, deployment: str, method: str, arguments: tuple[Any, ...]
) -> None:
    """Not a stream, in which the replica first says whether it takes the call: the routers of `stage_routers`."""
    serve: Any = importlib.import_module("ray.serve")
    call = getattr(serve.get_deployment_handle(deployment, "text2mask"), method).remote(*arguments)
    assert isinstance(call.result(timeout_s=30), StageError)
    assert call._replica_result._obj_ref_gen is None


def test_a_client_that_goes_away_does_not_disturb_the_next(client: httpx.Client) -> None:
    large = encoded(scene(3000, 2400), "PNG", compress_level=1)
    for _ in range(3):
        with pytest.raises(httpx.TimeoutException):  # on a busy machine even while it sends
            client.post("/v1/segment", files={"image": large}, data={"prompt": PROMPT}, timeout=0.05)
    assert len(ask(client)) > 0
