"""The HTTP face over fake stages, in process: formats, the table of errors, limits, deadlines. No Ray, no torch."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.http.answers import in_pieces
from deployments.http.body import MAX_DEPTH, MAX_NAMES, MAX_PARTS
from deployments.http.errors import STATUS
from deployments.http.reading import base64_length
from deployments.http.schemas import SegmentFields
from deployments.retry import StageLostError
from pipeline.errors import StageError
from pipeline.result import Result
from tests.deployments.fakes import FakeStages, base64, picture
from tests.deployments.service import LIMITS, PICTURE, Service, refusal

# Good requests


def test_json_and_form_give_the_same_answer() -> None:
    service = Service()
    answers = [Result.from_json(service.json().json()), Result.from_json(service.form().json())]
    assert answers[0] == answers[1]
    assert answers[0].labels == ("car", "wheel")
    assert answers[0].image_size == (20, 30)
    assert [mask.sum() for mask in answers[0].iter_masks()] == [300, 300]


def test_the_answer_is_what_the_design_shows() -> None:
    answer = Service().json(headers={"x-request-id": "mine-1"}).json()
    assert answer["id"] == "mine-1"
    assert answer["model"] == "tiny+tiny"
    assert answer["image"] == {"id": answer["image"]["id"], "width": 30, "height": 20}
    assert set(answer["timings_ms"]) == {"detect", "encode", "masks", "total"}
    assert answer["removed"] == {"negatives": 0, "nms": 0, "area": 0, "cap": 0}
    assert answer["warnings"] == ["a warning"]
    first = answer["detections"][0]
    assert set(first) == {"class_id", "label", "score", "text_score", "box", "mask", "mask_score", "area"}
    assert first["box"] == [0, 0, 15, 20]
    assert first["mask"]["format"] == "rle"
    assert first["mask"]["size"] == [20, 30]
    assert first["area"] == 300


@pytest.mark.parametrize("given", ["", "<script>", "a" * 129])
def test_a_request_id_that_is_not_harmless_is_replaced(given: str) -> None:
    assert Service().json(headers={"x-request-id": given}).json()["id"] not in (given, "")


def test_nothing_found_is_an_empty_list_and_the_decoder_is_not_called() -> None:
    service = Service()
    response = service.json(prompt="nothing")
    assert response.status_code == 200
    assert response.json()["detections"] == []
    assert "decode" not in service.stages.calls


def test_without_masks_only_the_detector_runs() -> None:
    service = Service()
    found = service.json(masks="none").json()["detections"][0]
    assert (found["mask"], found["mask_score"], found["area"]) == (None, None, None)
    assert "encode" not in service.stages.calls
    assert "decode" not in service.stages.calls


@pytest.mark.parametrize("form", ["polygon", "png"])
def test_other_forms_of_the_same_masks(form: str) -> None:
    service = Service()
    for response in (service.json(masks=form), service.form(masks=form)):
        assert response.headers["content-type"] == "application/json"
        assert {found["mask"]["format"] for found in response.json()["detections"]} == {form}
        assert Result.from_json(response.json()) == Result.from_json(service.json().json())
    assert service.json(masks=form, prompt="nothing").json()["detections"] == []


def test_the_loop_goes_on_while_an_answer_is_written() -> None:
    written, go_on = threading.Event(), threading.Event()

    def pieces() -> Iterator[str]:
        yield "["
        written.set()
        assert go_on.wait(20)
        yield '"ä"]'

    async def both() -> bytes:
        answer = asyncio.create_task(in_pieces(pieces(), time.time() + 30))
        assert await asyncio.to_thread(written.wait, 20)
        go_on.set()  # were the loop held up by the writing, it would never come here
        return bytes((await answer).body)

    assert json.loads(asyncio.run(both())) == ["ä"]


def test_nothing_is_written_past_the_deadline() -> None:
    late, made = threading.Event(), []

    def pieces() -> Iterator[str]:
        for piece in ("[1", ",2", ",3]"):
            made.append(piece)
            yield piece
            assert late.wait(20)

    async def answer() -> None:
        with pytest.raises(TimeoutError):
            await in_pieces(pieces(), time.time() + 0.05)
        late.set()

    asyncio.run(answer())  # it ends after the thread
    assert ",3]" not in made


def test_every_field_reaches_the_stages() -> None:
    service = Service()
    response = service.json(
        prompt=["Car", {"text": "wheel", "box_threshold": 0.4}],
        negative_prompt="dog",
        box_threshold=0.2,
        text_threshold=0.1,
        max_detections=1,
    )
    assert [found["label"] for found in response.json()["detections"]] == ["Car"]
    assert response.json()["removed"]["cap"] == 1
    request = service.stages.requests[0]
    assert [(named.label, named.text, named.box_threshold) for named in request.classes] == [
        ("Car", "car", None),
        ("wheel", "wheel", 0.4),
    ]
    assert [named.text for named in request.negatives] == ["dog"]
    assert (request.box_threshold, request.text_threshold) == (0.2, 0.1)


def test_form_fields_are_read_like_their_json_forms() -> None:
    service = Service()
    response = service.form(
        prompt='["a, b", {"text": "c", "box_threshold": 0.4}]', box_threshold="0.2", multimask="true", max_area="1"
    )
    assert [found["label"] for found in response.json()["detections"]] == ["a, b", "c"]
    assert service.stages.requests[0].classes[1].box_threshold == 0.4
    assert service.stages.requests[0].box_threshold == 0.2


def test_a_phrase_is_one_class() -> None:
    assert [
        found["label"] for found in Service().form(prompt="the car, not the wheel", mode="phrase").json()["detections"]
    ] == ["the car, not the wheel"]


def test_a_bracket_does_not_make_a_text_a_list() -> None:
    assert Service().form(prompt="[SEP] car").json()["detections"][0]["label"] == "[SEP] car"


@pytest.mark.parametrize("name", ["tiny", "tiny+tiny", None])
def test_a_model_is_named_by_its_pair_or_its_alias(name: str | None) -> None:
    assert Service().json(model=name).json()["model"] == "tiny+tiny"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_every_allowed_format_is_taken(form: str) -> None:
    assert Service().form(picture(form=form)).status_code == 200


def test_other_routes() -> None:
    service = Service()
    assert service.request("GET", "/healthz").json() == {"status": "ok"}
    assert service.request("GET", "/readyz").json() == {"status": "ready"}
    (model,) = service.request("GET", "/v1/models").json()["models"]
    assert (model["name"], model["aliases"], model["default"]) == ("tiny+tiny", ["tiny"], True)
    schemas = service.request("GET", "/openapi.json").json()["components"]["schemas"]
    assert schemas["SegmentRequest"]["properties"]["max_detections"]["maximum"] == 1000
    assert schemas["SegmentForm"]["required"] == ["image", "prompt"]


def test_every_reference_in_the_openapi_document_resolves() -> None:
    document = Service().request("GET", "/openapi.json").json()

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    references = set(walk(document))
    assert references
    for reference in references:
        found = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


# The table of errors


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{]",
        b"[" * 100_000,
        b'{"prompt": NaN}',
        b'{"prompt": -Infinity}',
        b'{"prompt": "a", "prompt": "b"}',
        b'{"image": {"type": "base64", "type": "url"}}',
        b'{"prompt": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"max_detections": ' + b"1" * 5000 + b"}",
    ],
)
def test_malformed_json_is_400(body: bytes) -> None:
    refusal(Service().raw(body), 400, "malformed_request")


PART = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n'


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x--"),  # no boundary named
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"nonsense"),
        ("multipart/form-data; boundary=x", PART),  # cut off
        ("multipart/form-data; boundary=x", PART + PART + b"--x--\r\n"),  # given twice
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", PART.replace(b"\r\na\r\n", b"\r\n\xff\r\n") + b"--x--\r\n"),
        (
            "multipart/form-data; boundary=x",
            b"".join(PART.replace(b"prompt", b"f%d" % index) for index in range(MAX_PARTS + 1)) + b"--x--\r\n",
        ),
        ("multipart/form-data; boundary=" + "x" * 1000, b"--x--"),
    ],
)
def test_malformed_multipart_is_400(content_type: str, body: bytes) -> None:
    refusal(Service().raw(body, content_type), 400, "malformed_request")


def form_with_image(parameters: bytes) -> bytes:
    image = b'--x\r\nContent-Disposition: form-data; name="image"%b\r\n\r\n%b\r\n' % (parameters, PICTURE)
    return image + PART.replace(b"\r\na\r\n", b"\r\ncar\r\n") + b"--x--\r\n"


@pytest.mark.parametrize(
    "parameters",
    [
        b"; filename=a.png",
        b"; filename*=UTF-8''a.png",
        b";filename*=utf-8'en'%e2%82%ac.png",
        b"; FileName*=UTF-8''a.png",
        b"; filename*0*=UTF-8''a; filename*1=.png",
        b'; other="a \\" b"; filename*=UTF-8\'\'a.png',
    ],
)
def test_a_file_may_have_its_name_in_any_script(parameters: bytes) -> None:
    answer = Service().raw(form_with_image(parameters), "multipart/form-data; boundary=x")
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "parameters", [b"", b'; other="; filename*=a"', b'; other="\\"; filename*=a', b"; myfilename*=a"]
)
def test_what_only_looks_like_a_files_name_is_none(parameters: bytes) -> None:
    refusal(Service().raw(form_with_image(parameters), "multipart/form-data; boundary=x"), 400, "malformed_request")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": " , ;\n"}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["car", ""]}, "prompt[1]"),
        ({"prompt": ["?"]}, "prompt[0]"),
        ({"prompt": ["car"] * 2001}, "prompt"),
        ({"prompt": "car, " * 2001}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": {"text": "car"}}, "prompt"),
        ({"prompt": [["car"]]}, "prompt[0]"),
        ({"prompt": [{"box_threshold": 0.1}]}, "prompt[0].text"),
        ({"prompt": [{"text": "car", "extra": 1}]}, "prompt[0].extra"),
        ({"prompt": [{"text": "car", "box_threshold": 2}]}, "prompt[0].box_threshold"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"negative_prompt": ""}, "negative_prompt"),
        ({"box_threshold": -0.01}, "box_threshold"),
        ({"box_threshold": 1.01}, "box_threshold"),
        ({"box_threshold": "0.5"}, "box_threshold"),
        ({"box_threshold": True}, "box_threshold"),
        ({"text_threshold": []}, "text_threshold"),
        ({"nms": "sometimes"}, "nms"),
        ({"nms_threshold": 2}, "nms_threshold"),
        ({"negative_iou": -1}, "negative_iou"),
        ({"min_area": 0.5, "max_area": 0.4}, "min_area"),
        ({"max_detections": 0}, "max_detections"),
        ({"max_detections": 1001}, "max_detections"),
        ({"max_detections": 1.5}, "max_detections"),
        ({"multimask": 1}, "multimask"),
        ({"masks": "ascii"}, "masks"),
        ({"mode": "poem"}, "mode"),
        ({"model": 5}, "model"),
        ({"tiles": "auto"}, "tiles"),
        ({"unknown": 1}, "unknown"),
        ({"<b>": 1}, None),
        ({"image": "abc"}, "image"),
        ({"image": {"type": "base64"}}, "image.value"),
        ({"image": {"type": "base64", "value": ""}}, "image.value"),
        ({"image": {"type": "base64", "value": "not base64!"}}, "image.value"),
        ({"image": {"type": "base64", "value": "QUJ"}}, "image.value"),
        ({"image": {"type": "base64", "value": "ä"}}, "image.value"),
        ({"image": {"type": "file", "value": "/etc/passwd"}}, "image.type"),
    ],
)
def test_a_value_that_may_not_be_is_422(fields: dict[str, Any], param: str | None) -> None:
    service = Service()
    body = json.dumps({"image": base64(PICTURE), "prompt": "car", **fields}).encode()
    assert refusal(service.raw(body), 422, "invalid_value")["param"] == param
    assert service.stages.calls == []


@pytest.mark.parametrize(
    ("fields", "param", "forms"),
    [
        ({"prompt": 5}, "prompt", ("string", "list", "object", "text", "box_threshold")),
        ({"prompt": None}, "prompt", ("string", "list", "object", "text", "box_threshold")),
        ({"prompt": {"text": "car"}}, "prompt", ("string", "list", "object", "text", "box_threshold")),
        ({"negative_prompt": True}, "negative_prompt", ("string", "list", "object", "text", "box_threshold")),
        ({"prompt": ["car", 5]}, "prompt[1]", ("string", "object", "text", "box_threshold")),
        ({"prompt": [None]}, "prompt[0]", ("string", "object", "text", "box_threshold")),
        ({"tile": 5}, "tile", ("'auto'", "object", "size", "overlap")),
        ({"tile": "AUTO"}, "tile", ("'auto'", "object", "size", "overlap")),
        ({"tile": []}, "tile", ("'auto'", "object", "size", "overlap")),
    ],
)
def test_a_value_of_none_of_the_forms_is_told_all_of_them(
    fields: dict[str, Any], param: str, forms: tuple[str, ...]
) -> None:
    error = refusal(Service().json(**fields), 422, "invalid_value")
    assert error["param"] == param
    assert all(form in error["message"] for form in forms)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": '["red'},
        {"prompt": '["red"], "blue"'},
        {"negative_prompt": '[{"text": "red", "text": "blue"}]'},
        {"tile": '{"size": 64, '},
        {"tile": '{"size": NaN, "overlap": 16}'},
    ],
)
def test_a_form_field_that_is_broken_json_is_named(fields: dict[str, str]) -> None:
    error = refusal(Service().form(PICTURE, **fields), 422, "invalid_value")
    limits = f"at most {MAX_DEPTH} levels deep, of at most {MAX_NAMES} names an object"
    assert (error["param"], error["message"]) == (*fields, f"must be valid JSON, {limits}")


def test_a_form_field_of_too_many_values_is_named() -> None:
    error = refusal(Service().form(prompt='["a"' + "," * 500_001), 413, "body_too_large")
    assert error["param"] == "prompt"


def test_a_form_is_told_all_forms_of_a_tile() -> None:
    error = refusal(Service().form(tile="AUTO"), 422, "invalid_value")
    assert all(form in error["message"] for form in ("'auto'", "size", "overlap"))


def test_a_number_too_large_for_a_float_is_422() -> None:
    body = json.dumps({"image": base64(PICTURE), "prompt": "car", "box_threshold": 0.5}).replace("0.5", "1e999")
    assert refusal(Service().raw(body.encode()), 422, "invalid_value")["param"] == "box_threshold"


@pytest.mark.parametrize("body", [b"[]", b"null", b"3", b'"car"', b"{}"])
def test_json_of_another_shape_is_422(body: bytes) -> None:
    refusal(Service().raw(body), 422, "invalid_value")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"data": {"prompt": "car"}, "files": {"other": b"x"}}, "image"),
        ({"data": {"prompt": "car"}, "files": {"image": (None, b"text")}}, "image"),
        ({"files": {"image": PICTURE}}, "prompt"),
        ({"files": {"image": PICTURE, "prompt": b"car"}}, None),
        ({"files": {"image": PICTURE}, "data": {"prompt": "car", "box_threshold": "nan"}}, "box_threshold"),
        ({"files": {"image": PICTURE}, "data": {"prompt": "car", "multimask": "perhaps"}}, "multimask"),
        ({"files": {"image": PICTURE}, "data": {"prompt": "car", "unknown": "1"}}, "unknown"),
    ],
)
def test_a_form_with_a_wrong_field_is_422(options: dict[str, Any], param: str | None) -> None:
    assert refusal(Service().request("POST", "/v1/segment", **options), 422, "invalid_value")["param"] == param


@pytest.mark.parametrize(
    ("image", "status", "code"),
    [
        (b"", 422, "image_undecodable"),
        (b"GIF89a" + bytes(50), 415, "image_format_not_allowed"),
        (b"%PDF-1.7", 415, "image_format_not_allowed"),
        (picture(form="BMP"), 415, "image_format_not_allowed"),
        (PICTURE[:20], 422, "image_undecodable"),
        (PICTURE[:-30], 422, "image_undecodable"),
        (picture((101, 100)), 413, "image_too_large"),
        (PICTURE + bytes(LIMITS.max_bytes), 413, "image_too_large"),
    ],
)
def test_an_image_that_may_not_be(image: bytes, status: int, code: str) -> None:
    service = Service()
    refusal(service.form(image), status, code)
    if image:  # an empty `value` is refused as such, above
        refusal(service.json(image=base64(image)), status, code)
    assert service.form().status_code == 200


@pytest.mark.parametrize("announce", [True, False])
def test_a_body_over_the_limit_is_not_read_to_its_end(announce: bool) -> None:
    service = Service()
    limit = base64_length(LIMITS.max_bytes) + SegmentFields.room
    chunk = b" " * 65536
    sent = 0

    async def send() -> httpx.Response:
        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 100 * limit:
                sent += len(chunk)
                yield chunk

        headers = {"content-type": "application/json"}
        if announce:
            headers["content-length"] = str(limit + 1)
        transport = httpx.ASGITransport(service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v1/segment", content=body(), headers=headers)

    refusal(asyncio.run(send()), 413, "body_too_large")
    assert sent == 0 if announce else sent <= limit + len(chunk)


def test_two_prompts_of_nothing_but_commas_are_not_too_many_values() -> None:
    commas = {"text": "a" + "," * 1_000}
    assert Service().json(prompt=[commas] * 190, negative_prompt=[commas] * 190).status_code == 200


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_another_media_type_is_415(content_type: str) -> None:
    refusal(Service().raw(b"{}", content_type), 415, "unsupported_media_type")


def test_a_compressed_body_is_415() -> None:
    response = Service().raw(b"{}", **{"content-encoding": "gzip"})
    refusal(response, 415, "unsupported_media_type")


def test_unknown_model_route_and_method() -> None:
    service = Service()
    assert refusal(service.json(model="huge"), 404, "unknown_model")["param"] == "model"
    for path in ("/v1", "/v1/segment/", "/v2/segment", "/v1/segment/../../etc"):
        refusal(service.request("GET", path), 404, "not_found")
    refused = service.request("DELETE", "/v1/segment")
    refusal(refused, 405, "method_not_allowed")
    assert refused.headers["allow"] == "POST"
    refusal(service.request("POST", "/healthz"), 405, "method_not_allowed")


def test_not_ready_is_503_with_retry_after() -> None:
    service = Service(ready=False)
    response = service.request("GET", "/readyz")
    refusal(response, 503, "not_ready")
    assert response.headers["retry-after"] == "1"
    assert service.request("GET", "/healthz").status_code == 200


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "-inf", "soon", "", "1e999", "1_0"])
def test_a_timeout_that_is_no_time_is_422(value: str) -> None:
    error = refusal(Service().json(headers={"x-request-timeout-seconds": value}), 422, "invalid_value")
    assert error["param"] == "x-request-timeout-seconds"


async def _for_ever(_: str) -> None:
    await asyncio.Event().wait()


def test_the_deadline_is_408_and_gives_up_what_runs() -> None:
    service = Service(FakeStages(gate=_for_ever))
    began = time.monotonic()
    refusal(service.json(headers={"x-request-timeout-seconds": "0.6"}), 408, "deadline_exceeded")
    assert 0.3 < time.monotonic() - began < 0.6  # before the proxy's own, plain-text 408
    assert sorted(service.stages.cancelled) == ["detect", "encode"]


def test_the_longest_timeout_caps_what_is_asked_for() -> None:
    service = Service(FakeStages(gate=_for_ever), max_timeout_s=0.05)
    refusal(service.json(headers={"x-request-timeout-seconds": "1000"}), 408, "deadline_exceeded")
    refusal(service.json(), 408, "deadline_exceeded")


@pytest.mark.parametrize("code", ["invalid_value", "image_undecodable", "deadline_exceeded", "cancelled", "internal"])
def test_a_stages_refusal_keeps_its_text(code: Any) -> None:
    service = Service(FakeStages({"detect": [StageError(code, "because", "prompt")]}))
    error = refusal(service.json(), STATUS[code], code)
    assert (error["message"], error["param"]) == ("because", "prompt")
    assert service.json().status_code == 200


@pytest.mark.parametrize("stage", ["detect", "encode", "decode"])
def test_a_fault_of_ours_is_500_without_its_text(stage: str) -> None:
    service = Service(FakeStages({stage: [RuntimeError("secret at 0x7fff")]}))
    response = service.json()
    refusal(response, 500, "internal")
    assert "secret" not in response.text
    assert service.json().status_code == 200


@pytest.mark.parametrize("stage", ["detect", "encode", "decode"])
def test_a_stage_that_stays_lost_is_503(stage: str) -> None:
    lost = [StageLostError(input_lost=stage == "encode") for _ in range(3)]
    service = Service(FakeStages({stage: lost}))
    refusal(service.json(), 503, "not_ready")
    assert service.json().status_code == 200


def test_concurrent_requests_do_not_mix() -> None:
    service = Service()

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await asyncio.gather(
                *(
                    client.post(
                        "/v1/segment",
                        json={"image": base64(picture((20 + index, 30))), "prompt": f"thing {index}"},
                        headers={"x-request-id": str(index)},
                    )
                    for index in range(40)
                )
            )

    for index, response in enumerate(asyncio.run(send())):
        answer = Result.from_json(response.json())
        assert response.json()["id"] == str(index)
        assert answer.labels == (f"thing {index}",)
        assert answer.image_size == (20 + index, 30)
        np.testing.assert_array_equal(next(answer.iter_masks()), np.ones((20 + index, 30), np.bool_))
