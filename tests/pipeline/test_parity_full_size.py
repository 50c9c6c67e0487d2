"""Full-size models with the published hyper-parameters, redrawn and saved in the published format, against the official
code: its own configuration files, builders and preprocessing on one side, a bundle of one's own on the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry
from transformers import BertConfig

from pipeline.bundle import OFFICIAL_VOCABULARY, Bundle, resolve
from pipeline.detector import Detector
from pipeline.image_encoder import ImageEncoder
from pipeline.mask_decoder import MaskDecoder
from pipeline.masks import decode
from pipeline.models import groundingdino, groundingdino_build
from pipeline.prompt import parse_classes
from pipeline.stages import DecodeOptions, DetectRequest, MaskPrompts
from tests.pipeline.judge import (
    TOLERANCE,
    Verdict,
    bert_tokenizer,
    deviation,
    deviations_from,
    labelled,
    left_out,
    mask_pixels_off,
    official_detector,
    official_pixels,
    padded,
    photo,
    pixel,
)
from tests.pipeline.redraw import redraw

pytestmark = pytest.mark.slow  # and on all cores: these models are large

SIZE = (480, 640)
TEXTS = ["traffic light", "wheel", "dog"]
HARMLESS = {"label_enc.weight": torch.zeros(2001, 256), "bert.embeddings.position_ids": torch.arange(512)[None]}


def own_bundle(folder: Path, kind: Any, architecture: str, published: object) -> Bundle:
    """The content of an official `.pth` file as a bundle of one's own."""
    torch.save(published, folder / "model.pth")
    with (folder / "model.pth").open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    content = {"kind": kind, "architecture": architecture, "weights": "model.pth", "sha256": sha256, "name": "own"}
    (folder / "bundle.json").write_text(json.dumps(content))
    return resolve(folder, kind)


def official_groundingdino(config: str) -> Any:
    """`groundingdino.models.build_model` of a published configuration; only, nothing is fetched from a hub."""
    official = groundingdino_build.official_module()
    path = Path(str(import_module("groundingdino").__file__)).parent / "config" / config
    args = import_module("groundingdino.util.slconfig").SLConfig.fromfile(str(path))
    args.use_checkpoint = args.use_transformer_ckpt = False  # they save memory in training, and change nothing else
    hub = official.get_tokenlizer
    bert = groundingdino_build.TextEncoder(BertConfig())
    with (
        mock.patch.object(hub, "get_tokenlizer", return_value=bert_tokenizer(OFFICIAL_VOCABULARY)),
        mock.patch.object(hub, "get_pretrained_language_model", return_value=bert),
        mock.patch.object(official, "BertModelWarper", lambda bert_model: bert_model),
    ):
        return import_module("groundingdino.models").build_model(args).eval()


def in_the_order_of(judge: Verdict, model: Any, logits: torch.Tensor) -> torch.Tensor:
    """The judge's queries, once it is clear that ours are those up to ties.

    With weights that were never trained, thousands of tokens score within rounding of their neighbours. Which comes
    first decides which learned query it gets: one matrix library or another gives other boxes for one in twenty.
    """
    best = logits.max(-1)[0]
    ours = torch.topk(best, model.num_queries, dim=1)
    torch.testing.assert_close(best.gather(1, judge.queries), ours.values, rtol=1e-5, atol=1e-5)
    return judge.queries


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    (tmp_path / "model.pth").unlink(missing_ok=True)  # hundreds of megabytes that pytest would keep


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        ("GroundingDINO_SwinT_OGC.py", "groundingdino-swint-ogc"),
        pytest.param("GroundingDINO_SwinB_cfg.py", "groundingdino-swinb-cogcoor", marks=pytest.mark.nightly),
    ],
)
def test_detector(config: str, architecture: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    theirs = official_groundingdino(config)
    redraw(theirs, seed=0)
    published = {"model": {f"module.{name}": tensor for name, tensor in (theirs.state_dict() | HARMLESS).items()}}
    detector = Detector.from_bundle(own_bundle(folder, "detector", architecture, published))
    del published

    image = photo(*SIZE)
    pixels = official_pixels(image, detector.arch)
    assert pixels.shape[1:] == (800, 1066)
    images, padding = padded([pixels], *pixels.shape[1:])
    tokenizer = bert_tokenizer(OFFICIAL_VOCABULARY)
    judge = official_detector(theirs, tokenizer, images, padding, [" . ".join(TEXTS) + " ."])
    del theirs

    # One forward pass of ours: what it makes on its way is kept.
    kept: list[Any] = []
    for part in ("encode", "propose"):
        function = getattr(groundingdino, part)

        def keeping(*args: Any, function: Any = function) -> Any:
            kept.append(function(*args))
            return kept[-1]

        monkeypatch.setattr(groundingdino, part, keeping)
    monkeypatch.setattr(groundingdino, "top_queries", partial(in_the_order_of, judge))
    found = detector.detect(image, DetectRequest(parse_classes(TEXTS), (), 0.0, 0.0))
    memory, (proposals, boxes) = kept
    deviations = deviations_from(detector.model, memory, proposals, boxes, judge)
    assert max(deviations.values()) <= TOLERANCE, deviations
    expected = labelled(tokenizer, judge, TEXTS, SIZE)
    assert len(expected) > 0.9 * 900
    assert left_out(found, expected, pixel(SIZE, (800, 1066))) <= 0.01 * len(expected)


@pytest.mark.parametrize(
    ("name", "architecture"), [("vit_b", "sam-vit-b"), pytest.param("vit_l", "sam-vit-l", marks=pytest.mark.nightly)]
)
def test_segmenter(name: str, architecture: str, folder: Path) -> None:
    torch.manual_seed(0)
    theirs = sam_model_registry[name]()
    redraw(theirs, seed=0)
    bundle = own_bundle(folder, "segmenter", architecture, theirs.state_dict())
    predictor = SamPredictor(theirs)
    predictor.set_image(photo(*SIZE))
    boxes = np.array([[30.5, 20, 220, 280.25], [400, 100, 639, 470]], np.float32)
    points = tuple(np.array([[x, 200, 1], [10, 10, 0]], np.float32) for x in (120, 500))

    encoder, decoder = ImageEncoder.from_bundle(bundle), MaskDecoder.from_bundle(bundle)
    embedding = encoder.encode(photo(*SIZE))
    assert deviation(embedding.features, predictor.get_image_embedding()[0]) <= TOLERANCE
    for multimask in (False, True):
        prompts = MaskPrompts(boxes=boxes, points=points)
        found = decoder.decode(embedding, prompts, DecodeOptions(multimask, low_res=True))
        assert found.low_res is not None
        for i, (box, point) in enumerate(zip(boxes, points, strict=True)):
            masks, scores, low = predictor.predict(point[:, :2], point[:, 2], box, multimask_output=multimask)
            best = int(scores.argmax())
            assert deviation(found.low_res[i], low[best]) <= TOLERANCE
            assert found.mask_scores[i] == pytest.approx(scores[best], abs=TOLERANCE)
            assert 0 < found.areas[i] < SIZE[0] * SIZE[1]
            assert mask_pixels_off(decode(found.rles[i]), masks[best]) <= 0
