"""Image encoder and mask decoder equal `SamPredictor` on the same weights; a broken one does not."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

from pipeline.bundle import load_weights, resolve
from pipeline.image_encoder import ImageEncoder, input_size
from pipeline.mask_decoder import MaskDecoder
from pipeline.masks import decode
from pipeline.models import sam
from pipeline.models.architectures import segmenter_architecture
from pipeline.stages import DecodeOptions, Embedding, Float32Array, MaskPrompts, Masks
from tests.pipeline.judge import TOLERANCE, deviation, mask_pixels_off, photo
from tests.pipeline.redraw import constant_tensors, redraw

pytestmark = pytest.mark.usefixtures("one_thread")

BUNDLE = resolve("tiny", "segmenter")
ARCH = segmenter_architecture(BUNDLE.architecture)
LOW = 4 * ARCH.embedding_size
SIZE = (210, 330)


def random_model() -> Sam:
    torch.manual_seed(7)
    model = sam.build(ARCH)
    redraw(model, seed=7)
    return model


def embedded_model() -> Sam:
    model = sam.build(ARCH)
    load_weights(model, BUNDLE)
    return model


@pytest.fixture(scope="module", params=["random", "embedded"])
def model(request: pytest.FixtureRequest) -> Sam:
    return random_model() if request.param == "random" else embedded_model()


def predictor_of(model: Sam, image: npt.NDArray[np.uint8]) -> Any:
    predictor = SamPredictor(model)
    predictor.set_image(image)
    return predictor


@pytest.fixture(scope="module")
def predictor(model: Sam) -> Any:
    return predictor_of(model, photo(*SIZE))


@pytest.fixture(scope="module")
def embedding(model: Sam) -> Embedding:
    return ImageEncoder(model, ARCH).encode(photo(*SIZE))


def boxes() -> Float32Array:
    return np.array([[30.5, 20, 120, 180.25], [200, 100, 329, 209], [0, 0, 330, 210], [150, 60, 151, 61]], np.float32)


def low_res_masks(count: int) -> Float32Array:
    return np.random.default_rng(3).normal(0, 4, (count, LOW, LOW)).astype(np.float32)


# Three prompts of one, two and four points, as `x, y, label`.
POINTS = (
    np.array([[60, 100, 1]], np.float32),
    np.array([[250.5, 150, 1], [10, 10, 0]], np.float32),
    np.array([[5, 5, 0], [320, 200, 1], [300, 190, 1], [165, 105, 0]], np.float32),
)


Answer = tuple[Any, float, Any]
"""A mask, its predicted IoU, and its low-resolution logits."""


def official(predictor: Any, prompts: MaskPrompts, multimask: bool) -> list[list[Answer]]:
    """`SamPredictor.predict`, prompt by prompt: of each all masks, best predicted IoU first."""
    answers = []
    for i in range(len(prompts)):
        points = None if prompts.points is None or not len(prompts.points[i]) else prompts.points[i]
        masks, scores, low = predictor.predict(
            point_coords=None if points is None else points[:, :2],
            point_labels=None if points is None else points[:, 2],
            box=None if prompts.boxes is None else prompts.boxes[i],
            mask_input=None if prompts.mask_inputs is None else prompts.mask_inputs[i][None],
            multimask_output=multimask,
        )
        best_first = sorted(range(len(scores)), key=lambda one: -float(scores[one]))
        answers.append([(masks[one], float(scores[one]), low[one]) for one in best_first])
    return answers


def check(found: Masks, expected: list[list[Answer]]) -> None:
    """The best mask of each prompt; and where alternatives were asked for, all of them in their order."""
    check_each(found, [answers[0] for answers in expected])
    if found.alternatives is not None:
        for alternatives, answers in zip(found.alternatives, expected, strict=True):
            assert len(answers) == 3
            check_each(alternatives, answers)


def check_each(found: Masks, expected: list[Answer]) -> None:
    assert len(found) == len(expected)
    assert found.low_res is not None
    for i, (mask, score, low) in enumerate(expected):
        assert deviation(found.low_res[i], low) <= TOLERANCE
        assert found.mask_scores[i] == pytest.approx(score, rel=TOLERANCE, abs=TOLERANCE)
        ours = decode(found.rles[i])
        assert found.areas[i] == ours.sum()
        assert mask_pixels_off(ours, mask) <= 0
    if len({mask.tobytes() for mask, _, _ in expected}) > 1:  # prompts matter
        assert len({rle.counts for rle in found.rles}) > 1


def test_no_tensor_is_left_constant() -> None:
    assert constant_tensors(sam.build(ARCH))  # as initialised, there are
    assert constant_tensors(random_model()) == []


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30_000), st.integers(1, 30_000), st.sampled_from([1024, ARCH.image_size]))
@example(1, 30_000, 1024)
def test_input_size(height: int, width: int, side: int) -> None:
    expected = ResizeLongestSide.get_preprocess_shape(height, width, side)
    assert input_size((height, width), side) == tuple(max(1, length) for length in expected)  # 0 cannot be resized to


@pytest.mark.parametrize("heads", [1, 3, 64], ids=["one head at a time", "three heads", "all heads"])
def test_attention_in_turns_is_the_official_one(monkeypatch: pytest.MonkeyPatch, heads: int) -> None:
    encoder = random_model().image_encoder
    images = torch.randn(2, 3, ARCH.image_size, ARCH.image_size)
    monkeypatch.setattr(sam, "_HEADS", heads)
    with torch.inference_mode():
        assert deviation(sam.encode_images(encoder, images), encoder(images)) <= 1e-6


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize(
    "prompts",
    [
        MaskPrompts(boxes=boxes()),
        MaskPrompts(points=POINTS),
        MaskPrompts(boxes=boxes()[:3], points=POINTS),
        MaskPrompts(boxes=boxes()[:3], mask_inputs=low_res_masks(3)),
        MaskPrompts(points=POINTS, mask_inputs=low_res_masks(3)),
        MaskPrompts(boxes=boxes()[:3], points=POINTS, mask_inputs=low_res_masks(3)),
        MaskPrompts(boxes=boxes()[:3], points=(POINTS[1], np.zeros((0, 3), np.float32), POINTS[1])),
    ],
    ids=["boxes", "points", "boxes+points", "boxes+masks", "points+masks", "all", "boxes+some points"],
)
def test_masks(model: Sam, predictor: Any, embedding: Embedding, prompts: MaskPrompts, multimask: bool) -> None:
    """All prompts in one call, each as `SamPredictor.predict` answers it alone."""
    options = DecodeOptions(multimask, low_res=True, alternatives=True)
    found = MaskDecoder(model, ARCH).decode(embedding, prompts, options)
    assert (found.alternatives is not None) == multimask
    check(found, official(predictor, prompts, multimask))


def test_many_points_and_many_parts(pristine: Sam, judged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More points than a pass takes beside others, and more masks than are kept at a time."""
    monkeypatch.setattr("pipeline.mask_decoder._MAX_PROMPTS", 4)
    monkeypatch.setattr("pipeline.mask_decoder._PART", 6)  # with alternatives, two prompts
    random = np.random.default_rng(5)
    clicks = np.concatenate((random.uniform(0, 210, (5, 60, 2)), random.integers(0, 2, (5, 60, 1))), 2)
    prompts = MaskPrompts(points=tuple(clicks.astype(np.float32)))
    options = DecodeOptions(multimask=True, low_res=True, alternatives=True)
    embedding = ImageEncoder(pristine, ARCH).encode(photo(*SIZE))
    check(MaskDecoder(pristine, ARCH).decode(embedding, prompts, options), official(judged, prompts, True))


def test_prompts_of_several_images_in_one_pass(pristine: Sam) -> None:
    """Boxes with and without a mask, few points and many (another way through attention), of images of three sizes."""
    many = np.random.default_rng(8).uniform(0, 100, (1, 30, 3)).round().astype(np.float32)
    many[..., 2] %= 2
    asked = {
        (210, 330): MaskPrompts(boxes=boxes()),
        (150, 100): MaskPrompts(boxes=boxes()[:2] / np.float32(4), mask_inputs=low_res_masks(2)),
        (120, 130): MaskPrompts(points=tuple(many)),
        (101, 110): MaskPrompts(points=(POINTS[0], many[0], POINTS[0])),
        (110, 101): MaskPrompts(boxes=boxes()[:3] / np.float32(4)),
    }
    decoder, encoder = MaskDecoder(pristine, ARCH), ImageEncoder(pristine, ARCH)
    options = DecodeOptions(low_res=True)
    items = [decoder.prepare(encoder.encode(photo(*size)), prompts, options) for size, prompts in asked.items()]
    for item, raw, (size, prompts) in zip(items, decoder.forward(items), asked.items(), strict=True):
        check(decoder.finish(item, raw), official(predictor_of(pristine, photo(*size)), prompts, False))


def test_many_boxes_equal_predict_torch(pristine: Sam, judged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More boxes than one pass of ours takes, against one official pass."""
    monkeypatch.setattr("pipeline.mask_decoder._MAX_PROMPTS", 4)
    embedding, predictor = ImageEncoder(pristine, ARCH).encode(photo(*SIZE)), judged
    corners = np.random.default_rng(0).uniform(0, 150, (10, 2))
    many = np.concatenate((corners, corners + np.random.default_rng(1).uniform(5, 60, (10, 2))), 1).astype(np.float32)
    scaled = predictor.transform.apply_boxes_torch(torch.from_numpy(many), predictor.original_size)
    masks, scores, low = predictor.predict_torch(None, None, scaled, multimask_output=False)
    expected = [
        [(m[0].numpy(), float(score[0]), logits[0])] for m, score, logits in zip(masks, scores, low, strict=True)
    ]
    check(MaskDecoder(pristine, ARCH).decode(embedding, MaskPrompts(boxes=many), DecodeOptions(low_res=True)), expected)


@pytest.mark.parametrize("size", [(12, 900), (900, 12), (1, 1), (384, 384), (1000, 700)])
def test_any_size(model: Sam, size: tuple[int, int]) -> None:
    """Embeddings, and the way back to full size, of images smaller and larger than the model's own input."""
    height, width = size
    predictor = predictor_of(model, photo(*size))
    embedding = ImageEncoder(model, ARCH).encode(photo(*size))
    assert embedding.features.dtype == np.float32
    assert embedding.input_size == predictor.input_size
    assert embedding.image_size == predictor.original_size == size
    assert deviation(embedding.features, predictor.get_image_embedding()[0]) <= TOLERANCE
    corners = np.array([[0.2, 0.1, 0.9, 0.8], [0, 0, 0.4, 0.5]], np.float32)
    prompts = MaskPrompts(boxes=corners * np.array([width, height, width, height], np.float32))
    found = MaskDecoder(model, ARCH).decode(embedding, prompts, DecodeOptions(low_res=True))
    check(found, official(predictor, prompts, multimask=False))


ENCODER_MUTATIONS = [
    "image_encoder.pos_embed",
    "image_encoder.patch_embed.proj.bias",
    "image_encoder.blocks.0.attn.rel_pos_h",  # windowed
    "image_encoder.blocks.2.attn.rel_pos_w",  # global
    "image_encoder.blocks.1.norm2.bias",
    "image_encoder.blocks.3.mlp.lin1.bias",
    "image_encoder.neck.3.bias",
]
DECODER_MUTATIONS = [
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "prompt_encoder.point_embeddings.0.weight",  # background
    "prompt_encoder.point_embeddings.1.weight",  # foreground
    "prompt_encoder.point_embeddings.2.weight",  # a box's corners
    "prompt_encoder.point_embeddings.3.weight",
    "prompt_encoder.not_a_point_embed.weight",
    "prompt_encoder.no_mask_embed.weight",
    "prompt_encoder.mask_downscaling.1.weight",
    "mask_decoder.iou_token.weight",
    "mask_decoder.mask_tokens.weight",
    "mask_decoder.transformer.layers.0.cross_attn_image_to_token.v_proj.bias",
    "mask_decoder.transformer.norm_final_attn.bias",
    "mask_decoder.output_upscaling.1.bias",
    "mask_decoder.output_hypernetworks_mlps.0.layers.2.weight",
    "mask_decoder.output_hypernetworks_mlps.2.layers.1.bias",
    "mask_decoder.iou_prediction_head.layers.2.weight",
]


@pytest.fixture(scope="module")
def pristine() -> Sam:
    return random_model()


@pytest.fixture(scope="module")
def judged(pristine: Sam) -> Any:
    return predictor_of(pristine, photo(*SIZE))


@pytest.mark.parametrize("name", ENCODER_MUTATIONS)
def test_a_zeroed_tensor_is_noticed_in_the_embedding(pristine: Sam, judged: Any, name: str) -> None:
    broken = without(pristine, name)
    found = ImageEncoder(broken, ARCH).encode(photo(*SIZE))
    assert deviation(found.features, judged.get_image_embedding()[0]) > 3 * TOLERANCE


# Together they need every tensor: each kind of prompt, each of the four masks.
QUESTIONS = [
    (MaskPrompts(points=POINTS[1:2]), False),
    (MaskPrompts(points=POINTS[1:2]), True),
    (MaskPrompts(boxes=boxes()[:1], mask_inputs=low_res_masks(1)), False),
]


@pytest.fixture(scope="module")
def answers(judged: Any) -> list[list[list[Answer]]]:
    return [official(judged, prompts, multimask) for prompts, multimask in QUESTIONS]


@pytest.mark.parametrize("name", [None, *DECODER_MUTATIONS])
def test_a_zeroed_tensor_is_noticed_in_the_masks(pristine: Sam, judged: Any, answers: Any, name: str | None) -> None:
    model = pristine if name is None else without(pristine, name)
    embedding = Embedding(judged.get_image_embedding()[0].numpy(), judged.input_size, judged.original_size)
    worst = 0.0
    for (prompts, multimask), [[(_, score, low), *_]] in zip(QUESTIONS, answers, strict=True):
        found = MaskDecoder(model, ARCH).decode(embedding, prompts, DecodeOptions(multimask, low_res=True))
        assert found.low_res is not None
        worst = max(worst, deviation(found.low_res[0], low), deviation(found.mask_scores[0], score))
    assert worst <= TOLERANCE if name is None else worst > 3 * TOLERANCE


def without(model: Sam, name: str) -> Sam:
    """A copy in which one tensor is zero."""
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.state_dict()[name].zero_()
    return broken
