"""`POST /v1/masks` over fake stages: its fields, its answer, its refusals. No Ray, no torch."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from deployments.http.mask_schemas import MasksFields
from deployments.retry import StageLostError
from pipeline.errors import StageError
from pipeline.formats.low_res import low_res_json
from pipeline.mask_prompts import MAX_INSTANCES, MAX_LOW_RES, MAX_POINTS
from pipeline.mask_result import MaskResult
from tests.deployments.fakes import FakeStages, base64, picture
from tests.deployments.service import LIMITS, PICTURE, Service, refusal

BOXES = [[1, 2, 11, 12], [20, 0, 30, 20]]
POINTS = [[10, 10, 1], [3, 3, 0]]
LOW_RES = low_res_json(np.full((12, 12), 0.5, np.float16))


def test_json_and_form_give_the_same_answer() -> None:
    service = Service()
    forms = {"boxes": json.dumps(BOXES), "multimask": "true", "low_res": "true"}
    answers = [
        MaskResult.from_json(service.masks(boxes=BOXES, multimask=True, low_res=True).json()),
        MaskResult.from_json(service.masks_form(**forms).json()),
    ]
    assert answers[0] == answers[1]
    assert [mask.sum() for mask in answers[0].iter_masks()] == [100, 200]
    assert "detect" not in service.stages.calls


def test_the_answer_is_what_the_design_shows() -> None:
    answer = Service().masks(boxes=BOXES, headers={"x-request-id": "mine-1"}).json()
    assert set(answer) == {"id", "model", "image", "detections", "timings_ms", "warnings"}
    assert (answer["id"], answer["model"], answer["warnings"]) == ("mine-1", "tiny+tiny", [])
    assert answer["image"] == {"id": answer["image"]["id"], "width": 30, "height": 20}
    assert set(answer["timings_ms"]) == {"encode", "masks", "total"}
    first = answer["detections"][0]
    assert set(first) == {"box", "mask", "mask_score", "area"}
    assert (first["box"], first["area"], first["mask_score"]) == ([1, 2, 11, 12], 100, 0.95)
    assert set(first["mask"]) == {"format", "size", "counts"}


def test_alternatives_and_logits_where_they_are_asked_for() -> None:
    (found,) = Service().masks(points=POINTS, multimask=True, low_res=True).json()["detections"]
    assert set(found) == {"box", "mask", "mask_score", "area", "low_res", "alternatives"}
    assert [one["mask_score"] for one in found["alternatives"]] == [0.95, 0.75, 0.5]
    assert [one["area"] for one in found["alternatives"]] == [16, 4, 0]
    assert [one["box"] for one in found["alternatives"]] == [[8, 8, 12, 12], [9, 9, 11, 11], None]
    assert found["alternatives"][0] == {name: found[name] for name in ("box", "mask", "mask_score", "area", "low_res")}
    assert found["low_res"]["shape"] == [12, 12]


def test_every_kind_of_prompt_reaches_the_decoder() -> None:
    service = Service()
    points = [[[10, 10, 1]], []]
    assert service.masks(boxes=BOXES, points=points, mask_input=[LOW_RES, LOW_RES]).status_code == 200
    form = {"boxes": BOXES, "points": points, "mask_input": [LOW_RES, LOW_RES]}
    assert service.masks_form(**{name: json.dumps(value) for name, value in form.items()}).status_code == 200
    for prompts in service.stages.prompts:
        assert prompts.boxes is not None
        assert prompts.boxes.tolist() == BOXES
        assert prompts.points is not None
        assert [one.tolist() for one in prompts.points] == points
        assert prompts.mask_inputs is not None
        assert prompts.mask_inputs.shape == (2, 12, 12)
        assert (prompts.mask_inputs == 0.5).all()


def test_logits_are_taken_back_as_they_were_given() -> None:
    service = Service()
    given = service.masks(points=POINTS, low_res=True).json()["detections"][0]["low_res"]
    assert service.masks(points=POINTS, mask_input=[given]).status_code == 200
    sent = service.stages.prompts[-1].mask_inputs
    assert sent is not None
    np.testing.assert_array_equal(sent, np.full((1, 12, 12), np.float16(0.95)))


@pytest.mark.parametrize("form", ["polygon", "png"])
def test_other_forms_of_the_same_masks(form: str) -> None:
    service = Service()
    plain = MaskResult.from_json(service.masks(points=POINTS, multimask=True).json())
    other = service.masks(points=POINTS, multimask=True, masks=form).json()
    assert {one["mask"]["format"] for one in other["detections"][0]["alternatives"]} == {form}
    assert MaskResult.from_json(other) == plain


def test_without_masks_all_else_is_there() -> None:
    (found,) = Service().masks(points=POINTS, masks="none", low_res=True).json()["detections"]
    assert found["mask"] is None
    assert (found["box"], found["area"]) == ([8, 8, 12, 12], 16)
    assert found["low_res"]["dtype"] == "float16"


def test_what_reaches_beyond_the_image_is_clipped_and_said() -> None:
    service = Service()
    answer = service.masks(boxes=[[-5, 2, 11, 50]]).json()
    assert answer["detections"][0]["box"] == [0, 2, 11, 20]
    assert len(answer["warnings"]) == 1
    (prompts,) = service.stages.prompts
    assert prompts.boxes is not None
    assert prompts.boxes.tolist() == [[0, 2, 11, 20]]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "boxes"),
        ({"boxes": None, "points": None}, "boxes"),
        ({"boxes": []}, "boxes"),
        ({"boxes": [1, 2, 3, 4]}, "boxes[0]"),
        ({"boxes": [[1, 2, 3]]}, "boxes[0]"),
        ({"boxes": [[1, 2, 3, 4, 5]]}, "boxes[0]"),
        ({"boxes": [["1", 2, 3, 4]]}, "boxes[0][0]"),
        ({"boxes": [[True, 2, 3, 4]]}, "boxes[0][0]"),
        ({"boxes": [[None, 2, 3, 4]]}, "boxes[0][0]"),
        ({"boxes": "all"}, "boxes"),
        ({"boxes": [[5, 2, 5, 4]]}, "boxes[0]"),
        ({"boxes": [[30, 0, 40, 5]]}, "boxes[0]"),
        ({"boxes": [[1, 2, 3, 4]] * (MAX_INSTANCES + 1)}, "boxes"),
        ({"points": []}, "points"),
        ({"points": [[]]}, "points[0]"),
        ({"points": [[1, 2]]}, "points[0]"),
        ({"points": [[1, 2, 1], 5]}, "points[1]"),
        ({"points": [[[1, 2, 1]], 5]}, "points[1]"),
        ({"points": [[[[1, 2, 1]]]]}, "points[0][0][0]"),
        ({"points": [{"x": 1}]}, "points[0]"),
        ({"points": 5}, "points"),
        ({"points": [[1, 2, 2]]}, "points[0]"),
        ({"points": [[1, 2, -1]]}, "points[0]"),
        ({"points": [[31, 2, 1]]}, "points[0]"),
        ({"points": [[1, 2, 1]] * (MAX_POINTS + 1)}, "points"),
        ({"points": [[[1, 2, 1]] * (MAX_POINTS + 1)]}, "points[0]"),
        ({"points": [[[1, 2, 1]]] * (MAX_INSTANCES + 1)}, "points"),
        ({"boxes": BOXES, "points": POINTS}, "points"),
        ({"boxes": BOXES, "mask_input": [LOW_RES]}, "mask_input"),
        ({"boxes": BOXES[:1], "mask_input": []}, "mask_input"),
        ({"boxes": BOXES[:1], "mask_input": [[1, 2]]}, "mask_input[0]"),
        ({"boxes": BOXES[:1], "mask_input": [LOW_RES | {"shape": [12, 13]}]}, "mask_input[0]"),
        ({"boxes": BOXES[:1], "mask_input": [LOW_RES | {"shape": [10**9, 10**9]}]}, "mask_input[0].shape[0]"),
        ({"boxes": BOXES[:1], "mask_input": [LOW_RES | {"dtype": "float64"}]}, "mask_input[0].dtype"),
        ({"boxes": BOXES[:1], "mask_input": [LOW_RES | {"data": LOW_RES["data"] + "AAAA"}]}, "mask_input[0]"),
        ({"boxes": BOXES[:1], "mask_input": [LOW_RES | {"data": "!" + LOW_RES["data"][1:]}]}, "mask_input[0]"),
        ({"boxes": BOXES[:1], "mask_input": [LOW_RES | {"more": 1}]}, "mask_input[0].more"),
        (
            {"boxes": BOXES[:1], "mask_input": [low_res_json(np.full((12, 12), np.nan, np.float16))]},
            "mask_input",
        ),
        ({"points": [[[1, 2, 1]]] * (MAX_LOW_RES + 1), "low_res": True}, "low_res"),
        ({"boxes": BOXES, "low_res": "true"}, "low_res"),
        ({"boxes": BOXES, "multimask": 1}, "multimask"),
        ({"boxes": BOXES, "masks": "ascii"}, "masks"),
        ({"boxes": BOXES, "prompt": "car"}, "prompt"),
    ],
)
def test_a_value_that_may_not_be_is_422(fields: dict[str, Any], param: str) -> None:
    service = Service()
    assert refusal(service.masks(**fields), 422, "invalid_value")["param"] == param
    assert service.stages.calls == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"boxes": "[[1, 2, 3, 4]"}, "boxes"),
        ({"boxes": ""}, "boxes"),
        ({"boxes": "[[NaN, 2, 3, 4]]"}, "boxes"),
        ({"boxes": "[[1e999, 2, 3, 4]]"}, "boxes[0][0]"),
        ({"boxes": '[["1", "2", "3", "4"]]'}, "boxes[0][0]"),
        ({"boxes": "[[false, 0, 3, 4]]"}, "boxes[0][0]"),
        ({"points": "10,10,1"}, "points"),
        ({"boxes": "[[1, 2, 3, 4]]", "mask_input": "[{]"}, "mask_input"),
        ({"boxes": "[[1, 2, 3, 4]]", "unknown": "1"}, "unknown"),
        ({"boxes": "[[1, 2, 3, 4]]", "multimask": "perhaps"}, "multimask"),
    ],
)
def test_a_form_with_a_wrong_field(fields: dict[str, str], param: str) -> None:
    assert refusal(Service().masks_form(**fields), 422, "invalid_value")["param"] == param


def test_points_of_no_form_are_told_both() -> None:
    message = refusal(Service().masks(points=5), 422, "invalid_value")["message"]
    assert all(form in message for form in ("[x, y, label]", "for each instance"))


def test_nan_is_no_json() -> None:
    body = json.dumps({"image": base64(PICTURE), "boxes": [[float("nan"), 2, 3, 4]]}).encode()
    refusal(Service().raw(body, path="/v1/masks"), 400, "malformed_request")


def test_a_file_as_a_field_is_422() -> None:
    files = {"image": PICTURE, "boxes": b"[[1, 2, 3, 4]]"}
    refusal(Service().request("POST", "/v1/masks", files=files), 422, "invalid_value")


@pytest.mark.parametrize(
    ("image", "status", "code"),
    [
        (b"GIF89a" + bytes(50), 415, "image_format_not_allowed"),
        (PICTURE[:20], 422, "image_undecodable"),
        (PICTURE[:-30], 422, "image_undecodable"),
        (picture((101, 100)), 413, "image_too_large"),
    ],
)
def test_an_image_that_may_not_be(image: bytes, status: int, code: str) -> None:
    service = Service()
    refusal(service.masks_form(image, boxes="[[1, 2, 3, 4]]"), status, code)
    refusal(service.masks(image=base64(image), boxes=[[1, 2, 3, 4]]), status, code)


def test_the_limits_themselves_are_allowed() -> None:
    service = Service()
    points = [[[0, 0, 1]] + [[29.123456789012345, 19.123456789012345, 0]] * (MAX_POINTS - 1)] * MAX_INSTANCES
    assert len(service.masks(points=points).json()["detections"]) == MAX_INSTANCES
    boxes = [[1, 2, 11, 12]] * MAX_LOW_RES
    largest = [low_res_json(np.ones((256, 256), np.float16))] * MAX_LOW_RES
    answer = service.masks(boxes=boxes, mask_input=largest, multimask=True, low_res=True)
    assert len(answer.json()["detections"]) == MAX_LOW_RES


def test_a_body_over_the_limit_is_413() -> None:
    body = b" " * (4 * ((LIMITS.max_bytes + 2) // 3) + MasksFields.room + 1)
    refusal(Service().raw(body, path="/v1/masks"), 413, "body_too_large")


def test_a_client_may_name_the_model_and_the_time() -> None:
    service = Service()
    assert service.masks(boxes=BOXES, model="tiny").json()["model"] == "tiny+tiny"
    assert refusal(service.masks(boxes=BOXES, model="huge"), 404, "unknown_model")["param"] == "model"
    refusal(service.masks(boxes=BOXES, headers={"x-request-timeout-seconds": "-1"}), 422, "invalid_value")
    refused = service.request("GET", "/v1/masks")
    refusal(refused, 405, "method_not_allowed")


@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_the_deadline_is_408_and_gives_up_what_runs(stage: str) -> None:
    async def hold(name: str) -> None:
        if name == stage:
            await asyncio.Event().wait()

    service = Service(FakeStages(gate=hold))
    refusal(service.masks(boxes=BOXES, headers={"x-request-timeout-seconds": "0.6"}), 408, "deadline_exceeded")
    assert service.stages.cancelled == [stage]


@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_what_is_lost_is_asked_for_again(stage: str) -> None:
    lost = StageLostError(input_lost=stage == "encode")
    undisturbed = MaskResult.from_json(Service().masks(boxes=BOXES).json())
    service = Service(FakeStages({stage: [lost]}))
    assert MaskResult.from_json(service.masks(boxes=BOXES).json()) == undisturbed
    assert service.stages.calls.count(stage) == 2
    refusal(Service(FakeStages({stage: [lost] * 3})).masks(boxes=BOXES), 503, "not_ready")


def test_a_stages_refusal_keeps_its_text_and_a_fault_does_not() -> None:
    refused = Service(FakeStages({"decode": [StageError("invalid_value", "because", "mask_input")]}))
    error = refusal(refused.masks(boxes=BOXES), 422, "invalid_value")
    assert (error["message"], error["param"]) == ("because", "mask_input")
    broken = Service(FakeStages({"encode": [RuntimeError("secret at 0x7fff")]})).masks(boxes=BOXES)
    refusal(broken, 500, "internal")
    assert "secret" not in broken.text


def test_it_is_described() -> None:
    document = Service().request("GET", "/openapi.json").json()
    route = document["paths"]["/v1/masks"]["post"]
    assert set(route["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    schemas = document["components"]["schemas"]
    assert schemas["MasksRequest"]["properties"]["boxes"]["anyOf"][0]["maxItems"] == MAX_INSTANCES
    assert schemas["MasksForm"]["required"] == ["image"]
    service = Service()
    for example in schemas["MasksRequest"]["examples"]:
        sent = example | {"image": base64(picture((90, 100)))}
        assert len(service.masks(**_scaled(sent)).json()["detections"]) == 1
    assert set(service.masks(boxes=BOXES).json()) == set(schemas["MasksAnswer"]["required"])


def _scaled(request: dict[str, Any]) -> dict[str, Any]:
    """The example, whose picture is 640x480, for one of 100x90."""
    for name in {"boxes", "points"} & request.keys():
        request[name] = [[value / 8 if value > 1 else value for value in item] for item in request[name]]
    return request
