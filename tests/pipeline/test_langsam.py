"""`LangSAM` takes what LangSAM took, and answers in its shapes with what `TextToMask` finds."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import LangSAM, StageError, TextToMask, draw_image
from pipeline.bundle import BundleError
from pipeline.masks import box_iou

pytestmark = pytest.mark.usefixtures("one_thread")

DEMO = Path(__file__).parents[2] / "pipeline" / "tiny" / "demo.png"
TEXT = "red circle, star"
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def text_to_mask() -> TextToMask:
    return TextToMask.from_pretrained("tiny")


@pytest.fixture(scope="module")
def model(text_to_mask: TextToMask) -> LangSAM:
    return LangSAM(text_to_mask)


@pytest.fixture(scope="module")
def image_pil() -> Image.Image:
    return Image.open(DEMO).convert("RGB").resize((320, 240))


def test_version_1(model: LangSAM, text_to_mask: TextToMask, image_pil: Image.Image) -> None:
    masks, boxes, phrases, logits = model.predict(image_pil, TEXT, 0.15, 0.1)
    result = text_to_mask.predict(image_pil, TEXT, box_threshold=0.15, text_threshold=0.1)
    assert len(result) > 0
    assert all(isinstance(tensor, torch.Tensor) for tensor in (masks, boxes, logits))
    assert (masks.dtype, masks.shape) == (torch.bool, (len(result), 240, 320))
    assert (boxes.dtype, boxes.shape) == (torch.float32, (len(result), 4))
    assert (logits.dtype, logits.shape) == (torch.float32, (len(result),))
    assert phrases == list(result.labels)
    np.testing.assert_array_equal(masks.numpy(), result.masks)
    np.testing.assert_array_equal(boxes.numpy(), result.boxes)
    np.testing.assert_array_equal(logits.numpy(), result.scores)


def test_version_1_by_position_and_by_name(model: LangSAM, image_pil: Image.Image) -> None:
    first = model.predict(image_pil, TEXT, 0.15, 0.1)
    second = model.predict(image_pil=image_pil, text_prompt=TEXT, text_threshold=0.1, box_threshold=0.15)
    assert torch.equal(first[0], second[0])
    assert first[2] == second[2]


def test_version_1_where_nothing_is_found(model: LangSAM, image_pil: Image.Image) -> None:
    masks, boxes, phrases, logits = model.predict(image_pil, "star", box_threshold=1.0)
    assert (masks.dtype, masks.shape) == (torch.bool, (0, 240, 320))
    assert (boxes.dtype, boxes.shape) == (torch.float32, (0, 4))
    assert (logits.dtype, logits.shape) == (torch.float32, (0,))
    assert phrases == []
    np.testing.assert_array_equal(draw_image(image_pil, masks, boxes, phrases), np.asarray(image_pil))


def test_version_2(model: LangSAM, image_pil: Image.Image) -> None:
    small = image_pil.resize((160, 120))
    answers = model.predict([image_pil, small, small], [TEXT, "blue.", "star"], 0.15, 0.1)
    assert isinstance(answers, list)
    assert len(answers) == 3
    masks, boxes, phrases, logits = model.predict(image_pil, TEXT, 0.15, 0.1)
    first = answers[0]
    assert first["labels"] == phrases
    np.testing.assert_array_equal(first["boxes"], boxes.numpy())
    np.testing.assert_array_equal(first["scores"], logits.numpy())
    np.testing.assert_array_equal(first["masks"], masks.numpy().astype(np.float32))
    for answer, size in zip(answers, [(240, 320), (120, 160), (120, 160)], strict=True):
        count = len(answer["labels"])
        shapes = {"boxes": (count, 4), "scores": (count,), "masks": (count, *size), "mask_scores": (count,)}
        assert answer.keys() == {*shapes, "labels"}
        assert {key: answer[key].shape for key in shapes} == shapes
        assert {answer[key].dtype for key in shapes} == {np.dtype(np.float32)}


def test_version_2_by_name_and_where_nothing_is_found(model: LangSAM, image_pil: Image.Image) -> None:
    (answer,) = model.predict(images_pil=[image_pil], texts_prompt=["star"], box_threshold=1.0)
    assert answer["labels"] == []
    assert answer["masks"].shape == (0, 240, 320)
    assert answer["boxes"].shape == (0, 4)
    assert answer["mask_scores"].shape == (0,)
    drawn = draw_image(np.asarray(image_pil), answer["masks"], answer["boxes"], answer["scores"], answer["labels"])
    np.testing.assert_array_equal(drawn, np.asarray(image_pil))


def test_lists_must_go_together(model: LangSAM, image_pil: Image.Image) -> None:
    bad: list[Any] = ["car, wheel", ["car", "wheel"], None]
    for texts in bad:
        with pytest.raises(ValueError, match="a list of as many texts"):
            model.predict([image_pil], texts)
    assert model.predict([], []) == []
    with pytest.raises(StageError, match="at least one class"):
        model.predict(image_pil, "")


def test_the_models_own_thresholds_are_the_default(model: LangSAM, image_pil: Image.Image) -> None:
    bundle = model.model.detector.bundle
    default = model.predict(image_pil, TEXT)
    same = model.predict(image_pil, TEXT, bundle.box_threshold, bundle.text_threshold)
    assert torch.equal(default[3], same[3])


@pytest.fixture(scope="module")
def upright(model: LangSAM, image_pil: Image.Image) -> tuple[Image.Image, Any, Any]:
    """A picture, its masks and its boxes."""
    picture = image_pil.crop((0, 0, 320, 200))
    masks, boxes, _, _ = model.predict(picture, TEXT, 0.15, 0.1)
    return picture, masks.numpy(), boxes.numpy()


def overlap(mask: Any, box: Any) -> float:
    """IoU of the mask's own box with a box."""
    y, x = np.nonzero(mask)
    own = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.float32)
    return float(box_iou(own, box[None])[0, 0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture(model: LangSAM, upright: tuple[Image.Image, Any, Any], orientation: int) -> None:
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }

    def stored(picture: Image.Image) -> Image.Image:
        return picture.transpose(back[orientation]) if orientation > 1 else picture

    turned = stored(upright[0])
    turned.getexif()[ORIENTATION] = orientation
    masks, boxes, _, _ = model.predict(turned, TEXT, 0.15, 0.1)
    assert len(masks) == len(upright[1]) > 0
    for mask, box, straight, straight_box in zip(masks.numpy(), boxes.numpy(), *upright[1:], strict=True):
        np.testing.assert_array_equal(mask, np.asarray(stored(Image.fromarray(straight))))
        assert overlap(mask, box) == pytest.approx(overlap(straight, straight_box), abs=1e-3)
    assert draw_image(turned, masks, boxes, [""] * len(masks)).shape == (turned.height, turned.width, 3)


# ---- which model


def test_the_constructor_has_langsams_arguments() -> None:
    names = list(inspect.signature(LangSAM).parameters)
    assert names[:3] == ["sam_type", "ckpt_path", "return_prompts"]
    model = LangSAM("tiny", return_prompts=True, device="cpu")
    assert model.sam_type == "tiny"
    assert model.model.name == "tiny+tiny"


def test_parts_and_paths() -> None:
    folder = DEMO.parent / "segmenter"
    assert LangSAM("tiny+tiny", device="cpu").model.name == "tiny+tiny"
    assert LangSAM(folder, detector="tiny", device="cpu").model.name == "tiny+tiny"
    assert LangSAM("tiny", ckpt_path=folder, device="cpu").model.name == "tiny+tiny"


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which official weights are looked for: there are none."""
    monkeypatch.setenv("TEXT2MASK_CHECKPOINTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_the_default_is_langsams(no_weights: Path) -> None:
    with pytest.raises(BundleError) as by_default:
        LangSAM()
    with pytest.raises(BundleError) as by_name:
        LangSAM("vit_h")
    assert str(by_default.value) == str(by_name.value)
    assert inspect.signature(LangSAM).parameters["sam_type"].default == "vit_h"


def test_missing_weights_come_with_the_command_and_the_model_that_needs_none(no_weights: Path) -> None:
    with pytest.raises(BundleError, match="'swinb' and 'vit_h' are not on this machine") as error:
        LangSAM()
    text = str(error.value)
    assert "text2mask download swinb+vit_h." in text
    assert 'LangSAM("tiny") runs without any download' in text
    assert str(no_weights) in text
    (no_weights / "groundingdino_swinb_cogcoor.pth").touch()
    with pytest.raises(BundleError, match=r"weights of 'vit_h' are not .* text2mask download vit_h\."):
        LangSAM()


@pytest.mark.parametrize("ckpt_path", [None, DEMO.parent / "segmenter"])
@pytest.mark.parametrize("name", ["foo", "", "tiny+foo", "swinb+foo"])
def test_a_segmenter_that_is_none_is_said_before_any_weights_are_missed(
    no_weights: Path, name: str, ckpt_path: Path | None
) -> None:
    segmenter = name.rpartition("+")[2]
    with pytest.raises(BundleError, match=f"^'{segmenter}' is neither a segmenter's name"):
        LangSAM(name, ckpt_path)


def test_names_of_the_wrong_kind_are_said_before_any_weights_are_missed(no_weights: Path) -> None:
    with pytest.raises(BundleError, match="^'swint' is a detector; the segmenters are tiny, vit_b"):
        LangSAM("swint")
    with pytest.raises(BundleError, match="^'foo' is neither a detector's name"):
        LangSAM("vit_h", detector="foo")
    with pytest.raises(BundleError, match="^'vit_b' is a segmenter; the detectors are"):
        LangSAM("vit_h", detector="vit_b")


@pytest.mark.usefixtures("no_weights")
def test_sam_type_and_file_must_go_together() -> None:
    with pytest.raises(BundleError, match="is not a vit_h"):
        LangSAM(ckpt_path=DEMO.parent / "segmenter")


@pytest.mark.parametrize("name", ["sam2.1_hiera_small", "sam2_hiera_large", "SAM2"])
def test_a_sam_2_is_refused_in_words(name: str) -> None:
    with pytest.raises(BundleError, match="is a SAM 2, which has no equivalent"):
        LangSAM(name)


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BundleError, match="did you mean 'vit_b'"):
        LangSAM("vit-b", detector="tiny")
