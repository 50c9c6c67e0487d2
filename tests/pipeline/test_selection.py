from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms, box_iou, nms

from pipeline.errors import StageError
from pipeline.selection import SelectionOptions, cap, drop_negatives, filter_area, select, suppress
from pipeline.stages import Detections

repeatable = settings(derandomize=True, deadline=None, max_examples=200)

SIZE = (100, 200)


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows of `x0, y0, x1, y1, score, class_id`; `text_scores` number the rows, to tell them apart."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    number = np.arange(len(table), dtype=np.float32)
    return Detections(table[:, :4], table[:, 4], number, table[:, 5].astype(np.int32), SIZE, 2, ("a warning",))


def rows_of(result: Detections) -> list[int]:
    return [int(number) for number in result.text_scores]


@st.composite
def many(draw: st.DrawFn, max_size: int = 40, lowest_class: int = 0) -> Detections:
    side = st.integers(1, 60)
    row = st.tuples(
        st.integers(0, 40), st.integers(0, 40), side, side, st.integers(1, 20), st.integers(lowest_class, 2)
    ).map(lambda r: (r[0], r[1], r[0] + r[2], r[1] + r[3], r[4] / 20, r[5]))
    return detections(*draw(st.lists(row, max_size=max_size)))


def crowd(count: int, seed: int = 0) -> Detections:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 900, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 120, (count, 2))], 1).astype(np.float32)
    scores = (rng.permutation(count) / max(1, count)).astype(np.float32)  # no two alike
    classes = rng.integers(0, 5, count).astype(np.int32)
    return Detections(boxes, scores, np.arange(count, dtype=np.float32), classes, (1000, 1000))


# ---- NMS


@pytest.mark.parametrize("count", [0, 1, 2, 300, 3000])
@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.7])
def test_nms_equals_torchvision(count: int, threshold: float) -> None:
    given = crowd(count)
    boxes, scores = torch.from_numpy(given.boxes), torch.from_numpy(given.scores)
    expected = nms(boxes, scores, threshold)
    assert rows_of(suppress(given, "agnostic", threshold)) == sorted(expected.tolist())
    expected = batched_nms(boxes.double(), scores.double(), torch.from_numpy(given.class_ids), threshold)
    assert rows_of(suppress(given, "class", threshold)) == sorted(expected.tolist())
    assert suppress(given, "off", threshold) is given


@st.composite
def crowded(draw: st.DrawFn) -> Detections:
    """Boxes of all sizes, in a frame so small that many overlap; negatives among them; no two scores alike."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, side = draw(st.integers(0, 60)), draw(st.integers(5, 200))
    corner = rng.uniform(0, side, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 60, (count, 2))], 1).astype(np.float32)
    scores = ((1 + rng.permutation(count)) / (1 + count)).astype(np.float32)
    classes = rng.integers(-2, 3, count).astype(np.int32)
    return Detections(boxes, scores, np.arange(count, dtype=np.float32), classes, (260, 260))


def clear_of(given: Detections, threshold: float) -> bool:
    """No overlap so near the threshold that rounding decides."""
    return bool((np.abs(overlaps(given, given) - threshold) > 1e-4).all())


def overlaps(first: Detections, second: Detections) -> Any:
    """Torchvision's IoU."""
    return box_iou(torch.from_numpy(first.boxes).double(), torch.from_numpy(second.boxes).double()).numpy()


@repeatable
@given(crowded(), st.floats(0.01, 0.99))
def test_nms_of_any_boxes_equals_torchvision(given: Detections, threshold: float) -> None:
    assume(clear_of(given, threshold))
    boxes, scores = torch.from_numpy(given.boxes).double(), torch.from_numpy(given.scores).double()
    expected = nms(boxes, scores, threshold)
    assert rows_of(suppress(given, "agnostic", threshold)) == sorted(expected.tolist())
    expected = batched_nms(boxes, scores, torch.from_numpy(given.class_ids), threshold)
    assert rows_of(suppress(given, "class", threshold)) == sorted(expected.tolist())


@repeatable
@given(crowded(), st.floats(0.01, 0.99))
def test_negatives_by_torchvisions_overlap(given: Detections, threshold: float) -> None:
    assume(clear_of(given, threshold))
    rivals = given.take(given.class_ids < 0)
    beaten = (overlaps(given, rivals) >= threshold) & (rivals.scores[None] > given.scores[:, None])
    expected = np.flatnonzero((given.class_ids >= 0) & ~beaten.any(1))
    assert rows_of(drop_negatives(given, threshold)) == expected.tolist()


@repeatable
@given(crowded(), st.floats(0.0, 0.03), st.floats(0.0, 0.03), st.integers(1, 20))
def test_area_and_cap(given: Detections, one: float, other: float, count: int) -> None:
    low, high = min(one, other), max(one, other)
    shares = [float(w) * float(h) / 260**2 for w, h in (given.boxes[:, 2:] - given.boxes[:, :2]).astype(np.float64)]
    assume(all(min(abs(share - low), abs(share - high)) > 1e-6 for share in shares))
    expected = [row for row, share in enumerate(shares) if low <= share <= high]
    assert rows_of(filter_area(given, low, high)) == expected
    best = sorted(range(len(given)), key=lambda row: -given.scores[row])[:count]
    assert rows_of(cap(given, count)) == best


@repeatable
@given(crowded(), st.sampled_from(["class", "agnostic", "off"]))
def test_no_step_touches_what_it_is_given(given: Detections, mode: Any) -> None:
    before = [column.copy() for column in (given.boxes, given.scores, given.text_scores, given.class_ids)]
    select(given, SelectionOptions(mode, 0.3, 0.3, 0.001, 0.03, 5))
    for column, old in zip((given.boxes, given.scores, given.text_scores, given.class_ids), before, strict=True):
        np.testing.assert_array_equal(column, old)


@repeatable
@given(many(), st.sampled_from(["class", "agnostic"]), st.sampled_from([0.0, 0.5, 0.75, 1.0]))
def test_nms_keeps_a_set_that_no_box_of_can_be_added_to(given: Detections, mode: Any, threshold: float) -> None:
    kept = rows_of(suppress(given, mode, threshold))
    assert kept == sorted(kept)
    rank = {row: place for place, row in enumerate(np.argsort(-given.scores, kind="stable"))}
    for row in range(len(given)):
        rivals = [k for k in kept if k != row and (mode == "agnostic" or given.class_ids[k] == given.class_ids[row])]
        beaten = any(rank[k] < rank[row] and overlap(given, k, row) > threshold for k in rivals)
        assert beaten == (row not in kept)


def overlap(given: Detections, i: int, j: int) -> float:
    ax0, ay0, ax1, ay1 = map(float, given.boxes[i])
    bx0, by0, bx1, by1 = map(float, given.boxes[j])
    shared = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
    return shared / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared)


def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    corners, sides = random.uniform(0, 60, (300, 2)), random.uniform(20, 60, (300, 2))
    columns = (corners, corners + sides, random.uniform(0, 1, (300, 1)), random.integers(-2, 3, (300, 1)))
    given = detections(*np.concatenate(columns, 1).tolist())
    options = SelectionOptions("agnostic", nms_threshold=0.3)
    kept, removed = select(given, options)
    assert min(len(kept), removed["nms"], removed["negatives"]) > 10
    for cells in (1, 1000, 40_000):
        monkeypatch.setattr("pipeline.selection._CELLS", cells)
        again, counts = select(given, options)
        assert rows_of(again) == rows_of(kept)
        assert counts == removed


def test_nms_by_class_and_across_classes() -> None:
    given = detections((0, 0, 10, 10, 0.5, 0), (0, 0, 10, 10, 0.9, 1), (0, 0, 10, 9, 0.8, 0), (50, 0, 60, 10, 0.1, 0))
    assert rows_of(suppress(given, "class", 0.7)) == [1, 2, 3]
    assert rows_of(suppress(given, "agnostic", 0.7)) == [1, 3]


def test_equal_scores_go_to_the_first() -> None:
    given = detections(*[(0, 0, 10, 10, 0.5, 0)] * 5)
    assert rows_of(suppress(given, "class", 0.7)) == [0]


def test_an_overlap_at_the_threshold_stays() -> None:
    given = detections((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 5, 0.5, 0))
    assert rows_of(suppress(given, "class", 0.5)) == [0, 1]
    assert rows_of(suppress(given, "class", 0.499)) == [0]


def test_empty_boxes_are_no_division_by_zero() -> None:
    given = detections((5, 5, 5, 5, 0.9, 0), (5, 5, 5, 5, 0.5, 0))
    assert rows_of(suppress(given, "class", 0.7)) == [0, 1]


# ---- negatives


@pytest.mark.parametrize(
    ("negative", "kept"),
    [
        ((0, 0, 10, 10, 0.9, -1), []),
        ((0, 0, 10, 10, 0.5, -1), [0]),  # its score is no higher
        ((0, 0, 10, 10, 0.4, -1), [0]),
        ((0, 0, 10, 5, 0.9, -3), []),  # an IoU of exactly 0.5
        ((0, 0, 10, 4.9, 0.9, -3), [0]),
        ((50, 50, 60, 60, 0.9, -1), [0]),
    ],
)
def test_a_negative_removes_what_it_overlaps_with_a_higher_score(
    negative: tuple[float, float, float, float, float, int], kept: list[int]
) -> None:
    assert rows_of(drop_negatives(detections((0, 0, 10, 10, 0.5, 0), negative), 0.5)) == kept


def test_many_negatives() -> None:
    given = crowd(1500, seed=1)
    classes = np.where(np.arange(1500) % 3 == 0, -1, given.class_ids).astype(np.int32)
    given = Detections(given.boxes, given.scores, given.text_scores, classes, given.size)
    sure = [r for r in np.flatnonzero(classes < 0).tolist() if given.scores[r] > 0.9]
    kept = set(rows_of(drop_negatives(given, 0.1)))
    for row in np.flatnonzero(classes >= 0).tolist():
        if any(overlap(given, row, n) > 0.11 and given.scores[n] > given.scores[row] for n in sure):
            assert row not in kept
    assert all(classes[row] >= 0 for row in kept)
    assert 0 < len(kept) < 1000


# ---- area and cap


def test_area_limits_are_included() -> None:
    given = detections((0, 0, 20, 10, 0.5, 0), (0, 0, 20, 20, 0.5, 0), (0, 0, 200, 100, 0.5, 0), (3, 3, 3, 9, 0.5, 0))
    assert rows_of(filter_area(given, 0.01, 0.02)) == [0, 1]
    assert rows_of(filter_area(given, 0.011, 1.0)) == [1, 2]
    assert rows_of(filter_area(given, 0.0, 1.0)) == [0, 1, 2, 3]


def test_cap_keeps_the_best_in_order() -> None:
    given = detections(*[(0, 0, 1, 1, score, 0) for score in (0.2, 0.9, 0.5, 0.9, 0.5)])
    assert rows_of(cap(given, 10)) == [1, 3, 2, 4, 0]
    assert rows_of(cap(given, 3)) == [1, 3, 2]


# ---- all of it


def test_the_steps_run_in_order_and_count_what_they_remove() -> None:
    given = detections(
        (0, 0, 10, 10, 0.95, -1),
        (0, 0, 10, 10, 0.9, 0),  # goes by the negative: and so cannot suppress the next
        (0, 0, 10, 6, 0.8, 0),
        (0, 0, 10, 5, 0.7, 0),  # by NMS
        (50, 50, 51, 51, 0.6, 0),  # by its area
        (80, 0, 90, 10, 0.5, 1),
        (80, 40, 90, 50, 0.4, 1),  # by the cap
    )
    options = SelectionOptions(nms_threshold=0.55, negative_iou=0.7, min_area=0.001, max_detections=2)
    kept, removed = select(given, options)
    assert rows_of(kept) == [2, 5]
    assert removed == {"negatives": 1, "nms": 1, "area": 1, "cap": 1}
    assert (kept.size, kept.passes, kept.warnings) == (SIZE, 2, ("a warning",))


@repeatable
@given(many(lowest_class=-3), st.sampled_from(["class", "agnostic", "off"]), st.integers(1, 10))
def test_select_adds_up(given: Detections, nms: Any, max_detections: int) -> None:
    kept, removed = select(given, SelectionOptions(nms=nms, max_area=0.05, max_detections=max_detections))
    assert len(kept) + sum(removed.values()) == (given.class_ids >= 0).sum()
    assert len(kept) <= max_detections
    assert (kept.class_ids >= 0).all()
    assert (np.diff(kept.scores) <= 0).all()
    again, nothing = select(kept, SelectionOptions(nms=nms, max_area=0.05, max_detections=max_detections))
    assert rows_of(again) == rows_of(kept)
    assert not any(nothing.values())
    for row, box in zip(rows_of(kept), kept.boxes, strict=True):
        np.testing.assert_array_equal(given.boxes[row], box)


def test_nothing_in_nothing_out() -> None:
    kept, removed = select(detections())
    assert len(kept) == 0
    assert kept.boxes.shape == (0, 4)
    assert removed == {"negatives": 0, "nms": 0, "area": 0, "cap": 0}


def test_the_order_given_does_not_change_what_is_kept() -> None:
    given = crowd(200, seed=3)
    shuffled = given.take(np.random.default_rng(0).permutation(200))
    assert rows_of(select(given)[0]) == rows_of(select(shuffled)[0])


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"nms": "soft"}, "nms"),
        ({"nms_threshold": float("nan")}, "nms_threshold"),
        ({"nms_threshold": 1.1}, "nms_threshold"),
        ({"negative_iou": -0.1}, "negative_iou"),
        ({"min_area": float("inf")}, "min_area"),
        ({"min_area": 0.5, "max_area": 0.4}, "min_area"),
        ({"max_detections": 0}, "max_detections"),
    ],
)
def test_bad_options(options: dict[str, Any], param: str) -> None:
    with pytest.raises(StageError) as caught:
        SelectionOptions(**options)
    assert (caught.value.code, caught.value.param) == ("invalid_value", param)
