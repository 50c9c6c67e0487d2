"""Bytes normalised on the device are, to the bit, what the CPU makes; so nothing of an answer changes."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.bundle import resolve
from pipeline.detector import Detector
from pipeline.image_encoder import ImageEncoder
from pipeline.prompt import parse_classes
from pipeline.stages import DetectRequest
from tests.pipeline.judge import photo

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_image_encoder() -> None:
    encoder = ImageEncoder.from_bundle(resolve("tiny", "segmenter"))
    images = [photo(90, 140), photo(131, 67)]
    expected = encoder.forward([encoder.prepare(image) for image in images])
    encoder.normalises_on_device = True
    items = [encoder.prepare(image) for image in images]
    assert {item.pixels.dtype for item in items} == {np.dtype(np.uint8)}
    np.testing.assert_array_equal(encoder.forward(items), expected)


def test_the_detector() -> None:
    """Two shapes that share a padded one: both images are padded, in different places."""
    detector = Detector.from_bundle(resolve("tiny", "detector"))
    request = DetectRequest(parse_classes("star, red circle"))
    images = [photo(150, 185), photo(150, 200)]
    plain = [detector.prepare(image, request) for image in images]
    assert plain[0].padded == plain[1].padded
    assert plain[0].pixels.shape != plain[1].pixels.shape
    expected = detector.forward(plain)
    detector.normalises_on_device = True
    items = [detector.prepare(image, request) for image in images]
    assert {item.pixels.dtype for item in items} == {np.dtype(np.uint8)}
    for [found], [scores] in zip(detector.forward(items), expected, strict=True):
        np.testing.assert_array_equal(found.tokens, scores.tokens)
        np.testing.assert_array_equal(found.boxes, scores.boxes)
