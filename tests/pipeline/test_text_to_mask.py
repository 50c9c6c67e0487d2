"""The whole path in one process, with the embedded model, on drawn scenes whose truth is known."""

from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import StageError, TextToMask
from pipeline.masks import decode
from pipeline.stages import DecodeOptions, DetectRequest, Embedding, MaskPrompts, TextClass, UInt8Array
from pipeline.tiny import evaluate, scenes

RECALL, MASK_IOU = 0.88, 0.92  # floors on the twelve scenes of one test; the model card has the figures


@pytest.fixture(scope="module")
def model() -> TextToMask:
    return TextToMask.from_pretrained("tiny")


@pytest.fixture(scope="module")
def picture() -> UInt8Array:
    drawn = scenes.draw(1, 300, 420, torch.Generator().manual_seed(21), objects=3)
    return drawn.images[0].round().byte().permute(1, 2, 0).contiguous().numpy()


def test_finds_and_masks_what_is_there(model: TextToMask) -> None:
    rng = np.random.default_rng(3)
    total = 0
    ious = []
    for _ in range(12):
        image, drawn = evaluate.scene(rng, held_out=False)
        slots = drawn.present[0].nonzero().flatten().tolist()
        names = [
            f"{scenes.COLOUR_NAMES[drawn.colours[0, slot]]} {scenes.SHAPES[drawn.shapes[0, slot]]}" for slot in slots
        ]
        result = model.predict(image, sorted(set(names)))
        found = [(label, mask) for label, mask in zip(result.labels, result.iter_masks(), strict=True)]
        for name, slot in zip(names, slots, strict=True):
            truth = drawn.masks[0, slot].numpy()
            best = max(((m & truth).sum() / (m | truth).sum() for label, m in found if label == name), default=0.0)
            total += 1
            ious += [best] if best >= 0.5 else []
    assert len(ious) / total >= RECALL
    assert np.mean(ious) >= MASK_IOU


def test_every_kind_of_image_gives_the_same_answer(model: TextToMask, picture: UInt8Array, tmp_path: Path) -> None:
    pil = Image.fromarray(picture)
    file = BytesIO()
    pil.save(file, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(file.getvalue())
    expected = model.predict(picture, "red, blue, green", box_threshold=0.1)
    assert len(expected)
    for image in (pil, file.getvalue(), path, str(path)):
        assert model.predict(image, "red, blue, green", box_threshold=0.1) == expected


def test_exif_of_a_pil_image_is_applied_once(model: TextToMask, picture: UInt8Array) -> None:
    turned = Image.fromarray(np.rot90(picture).copy())
    exif = turned.getexif()
    exif[0x0112] = 6  # rotate by 270 degrees to see it upright
    file = BytesIO()
    turned.save(file, "PNG", exif=exif)
    upright = model.predict(picture, "red", box_threshold=0.1)
    assert model.predict(Image.open(BytesIO(file.getvalue())), "red", box_threshold=0.1) == upright
    assert model.predict(file.getvalue(), "red", box_threshold=0.1) == upright


def test_nothing_found(model: TextToMask) -> None:
    blank = np.full((64, 90, 3), 200, np.uint8)
    result = model.predict(blank, "red circle", box_threshold=0.99)
    assert len(result) == 0
    assert result.masks.shape == (0, 64, 90)
    assert result.boxes.shape == (0, 4)
    assert result.passes == 1


def test_labels_are_the_callers_words(model: TextToMask, picture: UInt8Array) -> None:
    result = model.predict(picture, ["  RED ", "Blue!"], box_threshold=0.0, text_threshold=0.0, nms="off")
    assert set(result.labels) <= {"RED", "Blue!"}
    assert set(result.class_ids.tolist()) <= {0, 1}


def test_more_classes_than_one_caption_holds(model: TextToMask, picture: UInt8Array) -> None:
    texts = [f"{colour} {shape}" for colour in scenes.COLOUR_NAMES for shape in scenes.SHAPES]
    result = model.predict(picture, texts, box_threshold=0.2)
    assert result.passes == 5  # 64 classes of 3 tokens, 15 in a caption of 48
    assert set(result.labels) <= set(texts)


def test_unknown_words_are_named_in_a_warning(model: TextToMask, picture: UInt8Array) -> None:
    result = model.predict(picture, "red, locomotive")
    assert len(result.warnings) == 1
    assert "locomotive" in result.warnings[0]


def test_own_threshold_of_a_class(model: TextToMask, picture: UInt8Array) -> None:
    assert len(model.predict(picture, "object", box_threshold=0.05))
    assert len(model.predict(picture, [{"text": "object", "box_threshold": 1.0}], box_threshold=0.05)) == 0


def test_negatives_remove_what_they_outscore(model: TextToMask, picture: UInt8Array) -> None:
    both = model.predict(picture, ["red", "object"], box_threshold=0.05, nms="off", max_detections=1000)
    objects = [s for label, s in zip(both.labels, both.scores, strict=True) if label == "object"]
    without = model.predict(
        picture, "red", negative_prompt="object", box_threshold=0.05, negative_iou=0.0, nms="off", max_detections=1000
    )
    alone = [s for label, s in zip(both.labels, both.scores, strict=True) if label == "red"]
    assert objects
    assert without.removed["negatives"] + len(without) == len(alone)
    assert all(label == "red" for label in without.labels)


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": "red " * 60}, "prompt[0]"),
        ({"prompt": ["x"] * 3 + ["rot " * 100] + ["y"], "negative_prompt": "z"}, "prompt[3]"),
        ({"prompt": "red", "negative_prompt": "red " * 60}, "negative_prompt[0]"),
        ({"prompt": "red", "negative_prompt": ["star", "\ufffd"]}, "negative_prompt[1]"),
        ({"prompt": "red", "box_threshold": "0.3"}, "box_threshold"),
        ({"prompt": "red", "nms_threshold": "x"}, "nms_threshold"),
        ({"prompt": "red", "min_area": None}, "min_area"),
        ({"prompt": "red", "max_detections": 2.5}, "max_detections"),
        ({"prompt": "red", "max_detections": True}, "max_detections"),
        ({"prompt": "red", "tile": {"size": 320.0, "overlap": 64}}, "tile.size"),
        ({"prompt": "red", "nms_threshold": float("nan")}, "nms_threshold"),
        ({"prompt": "red", "max_detections": 0}, "max_detections"),
        ({"prompt": "red", "box_threshold": float("nan")}, "box_threshold"),
        ({"prompt": "red", "text_threshold": 1.5}, "text_threshold"),
    ],
)
def test_bad_arguments_name_the_field(
    model: TextToMask, picture: UInt8Array, arguments: dict[str, object], param: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.detector, "forward", None)  # no model runs
    with pytest.raises(StageError) as refused:
        model.predict(picture, **arguments)  # type: ignore[arg-type]
    assert refused.value.code == "invalid_value"
    assert refused.value.param == param


def test_numbers_of_numpy_are_taken_as_those_of_python(model: TextToMask, picture: UInt8Array) -> None:
    plain = model.predict(
        picture, ["blue", {"text": "red", "box_threshold": 0.25}], max_detections=5, tile={"size": 320, "overlap": 64}
    )
    given: Any = {"max_detections": np.int64(5), "tile": {"size": np.int64(320), "overlap": np.int32(64)}}
    assert model.predict(picture, ["blue", {"text": "red", "box_threshold": np.float32(0.25)}], **given) == plain


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (900, 3), (33, 31)])
def test_images_of_odd_sizes(model: TextToMask, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    result = model.predict(image, "red, blue circle", box_threshold=0.0, text_threshold=0.0, max_detections=3)
    assert result.image_size == size
    for rle in result.rles or ():
        assert decode(rle).shape == size


def test_region_boxes_are_in_the_regions_frame(model: TextToMask, picture: UInt8Array) -> None:
    from pipeline.prompt import parse_classes
    from pipeline.stages import DetectRequest

    region = (100, 50, 400, 290)
    request = DetectRequest(parse_classes("red, blue, green"), box_threshold=0.05, region=region)
    inside = model.detector.detect(picture, request)
    cropped = model.detector.detect(
        np.ascontiguousarray(picture[50:290, 100:400]), DetectRequest(request.classes, box_threshold=0.05)
    )
    assert inside.size == (240, 300)
    np.testing.assert_array_equal(inside.boxes, cropped.boxes)
    embedding = model.image_encoder.encode(picture, key="k", region=region)
    assert (embedding.image_size, embedding.region, embedding.key) == ((240, 300), region, "k")


@pytest.mark.parametrize(
    "prompts",
    [
        MaskPrompts(),
        MaskPrompts(boxes=np.zeros((2, 3), np.float32)),
        MaskPrompts(boxes=np.zeros((2, 4), np.float32), points=(np.zeros((1, 3), np.float32),)),
        MaskPrompts(points=(np.zeros((1, 2), np.float32),)),
        MaskPrompts(boxes=np.zeros((1, 4), np.float32), mask_inputs=np.zeros((1, 5, 5), np.float32)),
    ],
)
def test_bad_mask_prompts(model: TextToMask, prompts: MaskPrompts) -> None:
    arch = model.mask_decoder.arch
    features = np.zeros((arch.out_chans, arch.embedding_size, arch.embedding_size), np.float32)
    embedding = Embedding(features, (arch.image_size, arch.image_size), (100, 100))
    with pytest.raises(StageError):
        model.mask_decoder.decode(embedding, prompts, DecodeOptions())


def test_masks_are_not_made_past_the_deadline(model: TextToMask, picture: UInt8Array) -> None:
    embedding = model.image_encoder.encode(picture)
    prompts = MaskPrompts(boxes=np.array([[10, 10, 200, 200]], np.float32))
    assert len(model.mask_decoder.decode(embedding, prompts, DecodeOptions(), time.time() + 1000)) == 1
    with pytest.raises(StageError) as refused:
        model.mask_decoder.decode(embedding, prompts, DecodeOptions(), time.time())
    assert refused.value.code == "deadline_exceeded"


def test_the_detectors_shapes_can_be_chosen_as_in_a_service(model: TextToMask, picture: UInt8Array) -> None:
    """An image of 1:2.1 is padded to the bucket of 1:2.25."""
    asked = DetectRequest((TextClass(0, "star", "star"),))
    bucketed = TextToMask.from_pretrained("tiny", shapes="buckets")
    padded = [one.detector.prepare(picture[:200], asked).padded for one in (model, bucketed)]
    assert padded[1][1] > padded[0][1]
