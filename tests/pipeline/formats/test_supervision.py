"""`supervision.Detections` of the release that groundingdino-py pins; the current one is in tests/other_programs."""

from __future__ import annotations

import numpy as np
import pytest
import supervision

from tests.pipeline.formats.scene import HEIGHT, WIDTH, boxes_only, masks, nothing_found, result


def test_detections() -> None:
    detections = result().to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert len(detections) == 4
    np.testing.assert_array_equal(detections.mask, masks())
    np.testing.assert_array_equal(detections.xyxy, result().boxes)
    np.testing.assert_array_equal(detections.confidence, result().scores)
    np.testing.assert_array_equal(detections.class_id, [0, 2, 2, 1])
    np.testing.assert_array_equal(detections.area, masks().sum(axis=(1, 2)))
    weak = detections[detections.confidence < 0.5]
    np.testing.assert_array_equal(weak.mask, masks()[2:])
    detections.xyxy[:] = 0
    assert result().boxes.any()


def test_it_draws_them() -> None:
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    drawn = supervision.MaskAnnotator().annotate(picture, result().to_supervision(), opacity=1)
    np.testing.assert_array_equal(drawn.any(axis=2), masks().any(axis=0))


def test_nothing_found() -> None:
    detections = nothing_found().to_supervision()
    assert len(detections) == 0
    assert detections.mask.shape == (0, HEIGHT, WIDTH)
    assert detections == detections[np.zeros(0, np.bool_)]


def test_boxes_only() -> None:
    detections = boxes_only().to_supervision()
    assert detections.mask is None
    np.testing.assert_array_equal(detections.xyxy, result().boxes)


def test_compact_masks_need_a_newer_release() -> None:
    with pytest.raises(ImportError, match=r"0\.30"):
        result().to_supervision(compact=True)
