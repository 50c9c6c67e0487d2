"""What docs/thresholds.md builds on: one run at a low threshold holds the runs at all higher ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.selection import NmsMode, SelectionOptions, select
from pipeline.stages import Detections


def candidates(seed: int, count: int, negatives: bool) -> Detections:
    """Boxes in clusters, so that they overlap; scores with ties."""
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 3, (count, 2)) * 30 + rng.uniform(0, 8, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 30, (count, 2))], 1).astype(np.float32)
    scores = rng.integers(1, 20, count).astype(np.float32) / np.float32(20)
    class_ids = rng.integers(-2 if negatives else 0, 3, count).astype(np.int32)
    return Detections(boxes, scores, scores, class_ids, (120, 120))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(0, 60),
    threshold=st.integers(0, 20).map(lambda step: step / 20),
    negatives=st.booleans(),
    nms=st.sampled_from(["class", "agnostic", "off"]),
    cap=st.sampled_from([3, 1000]),
)
def test_a_higher_threshold_only_drops_lower_scores(
    seed: int, count: int, threshold: float, negatives: bool, nms: NmsMode, cap: int
) -> None:
    options = SelectionOptions(nms=nms, negative_iou=0.4, nms_threshold=0.4, max_detections=cap)
    low = candidates(seed, count, negatives)
    expected, _ = select(low.take(low.scores >= np.float32(threshold)), options)
    kept, _ = select(low, options)
    found = kept.take(kept.scores >= np.float32(threshold))
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.class_ids, expected.class_ids)


def test_the_candidates_are_such_that_every_step_acts() -> None:
    low = candidates(1, 60, True)
    _, removed = select(low, SelectionOptions(nms_threshold=0.4, negative_iou=0.4, max_detections=3))
    assert removed["negatives"] > 0
    assert removed["nms"] > 0
    assert removed["cap"] > 0


@pytest.mark.parametrize("thresholds", [(0.2, 0.7), (0.6, 0.1)])
def test_with_nms_by_class_each_class_may_have_its_own(thresholds: tuple[float, float]) -> None:
    low = candidates(5, 60, False)
    limits = np.array([*thresholds, 0.4], np.float32)
    expected, _ = select(low.take(low.scores >= limits[low.class_ids]), SelectionOptions(nms_threshold=0.4))
    kept, _ = select(low, SelectionOptions(nms_threshold=0.4))
    found = kept.take(kept.scores >= limits[kept.class_ids])
    np.testing.assert_array_equal(found.boxes, expected.boxes)
