"""Tiles: where they lie, and that what they find is what was drawn, as if nothing had been cut."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pipeline import Result, StageError
from pipeline.masks import encode
from pipeline.seams import limit, merge
from pipeline.selection import SelectionOptions
from pipeline.stages import Detections, DetectRequest, Masks, TextClass
from pipeline.tiling import MAX_PIECES, MAX_TILES, Admitted, TileSize, Tiling, parse_tile, plan
from tests.pipeline.oracle import Mask, Oracle, Thing, tight

FAST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
TILE = {"size": 100, "overlap": 40}
ONE = DetectRequest((TextClass(0, "a", "a"),))
CLASSES = ["first", "second", "third"]


@st.composite
def tile_sizes(draw: st.DrawFn) -> TileSize:
    size = draw(st.integers(64, 400))
    return TileSize(size, draw(st.integers(16, size // 2)))


class TestPlan:
    @given(st.integers(1, 3000), st.integers(1, 3000), tile_sizes())
    @settings(deadline=None)
    def test_equal_tiles_cover_the_image_and_overlap_as_asked(self, height: int, width: int, tile: TileSize) -> None:
        step = tile.size - tile.overlap
        assume((height // step + 1) * (width // step + 1) <= MAX_TILES)  # too many are refused: see below
        tiling = plan((height, width), tile, 800, ONE)
        if tiling is None:
            assert max(height, width) <= tile.size
            return
        assert max(height, width) > tile.size
        assert 1 < len(set(tiling.regions)) == len(tiling.regions) <= MAX_TILES
        shapes = {(y1 - y0, x1 - x0) for x0, y0, x1, y1 in tiling.regions}
        assert shapes == {(min(tile.size, height), min(tile.size, width))}
        for axis, length in ((0, width), (1, height)):
            spans = sorted({(region[axis], region[axis + 2]) for region in tiling.regions})
            assert spans[0][0] == 0
            assert spans[-1][1] == length
            assert all(end - start >= tile.overlap for (_, end), (start, _) in zip(spans, spans[1:], strict=False))
        columns = {(x0, x1) for x0, _, x1, _ in tiling.regions}
        rows = {(y0, y1) for _, y0, _, y1 in tiling.regions}
        assert len(tiling.regions) == len(rows) * len(columns)  # every row of tiles holds every column

    def test_no_more_tiles_than_needed(self) -> None:
        tiling = plan((100, 160), TileSize(100, 40), 800, ONE)
        assert tiling is not None
        assert tiling.regions == ((0, 0, 100, 100), (60, 0, 160, 100))
        tiling = plan((100, 161), TileSize(100, 40), 800, ONE)
        assert tiling is not None
        assert [region[0] for region in tiling.regions] == [0, 30, 61]

    @pytest.mark.parametrize("short_side", [160, 800])
    @given(height=st.integers(1, 12000), width=st.integers(1, 12000))
    @settings(deadline=None)
    def test_auto_bounds_the_work(self, short_side: int, height: int, width: int) -> None:
        assume(height * width <= 50_000_000)
        tiling = plan((height, width), "auto", short_side, ONE)
        least = max(640, short_side)
        if tiling is None:
            assert max(height, width) <= 2 * least
            return
        assert max(height, width) > 2 * least
        assert len(tiling.regions) <= 100
        x0, y0, x1, y1 = tiling.regions[0]
        assert max(y1 - y0, x1 - x0) >= least

    def test_auto_of_a_large_photograph(self) -> None:
        for short_side, side in ((160, 640), (800, 800)):
            tiling = plan((3000, 4000), "auto", short_side, ONE)
            assert tiling is not None
            assert tiling.regions[0] == (0, 0, side, side)

    @pytest.mark.parametrize(
        "tile",
        ["AUTO", 3, None, [], {}, {"size": 640}, {"size": 640, "overlap": 100, "x": 1}, {"size": 640.0, "overlap": 100}]
        + [{"size": True, "overlap": 100}, {"size": "640", "overlap": 100}, {"size": 63, "overlap": 20}]
        + [{"size": 4097, "overlap": 100}, {"size": 640, "overlap": 321}, {"size": 640, "overlap": 15}],
    )
    def test_other_values_are_refused(self, tile: object) -> None:
        with pytest.raises(StageError, match="must be") as refused:
            parse_tile(tile)
        assert refused.value.param is not None
        assert refused.value.param.startswith("tile")

    def test_integers_of_numpy_are_integers(self) -> None:
        assert parse_tile({"size": np.int64(320), "overlap": 64}) == TileSize(320, 64)
        assert type(TileSize(np.int64(320), 64).size) is int  # type: ignore[arg-type]

    @pytest.mark.parametrize("wrong", ["64", None, 64.0, True])
    def test_another_type_is_refused_by_its_name(self, wrong: Any) -> None:
        for tile, param in (
            ({"size": wrong, "overlap": 64}, "tile.size"),
            ({"size": 320, "overlap": wrong}, "tile.overlap"),
        ):
            with pytest.raises(StageError) as refused:
                parse_tile(tile)
            assert (refused.value.param, refused.value.message) == (param, "must be an integer")

    def test_too_much_work_is_refused(self) -> None:
        few, many = (DetectRequest(tuple(TextClass(i, "a", f"a{i}") for i in range(count))) for count in (100, 2000))
        assert plan((3000, 4000), TileSize(640, 160), 800, few) is not None
        refused = [(TileSize(640, 160), many, "classes"), (TileSize(160, 80), ONE, f"at most {MAX_TILES}")]
        for tile, request, text in [*refused, (TileSize(640, 160), replace(ONE, top_k=9), "raw")]:
            with pytest.raises(StageError, match=text) as error:
                plan((3000, 4000), tile, 800, request)
            assert (error.value.code, error.value.param) == ("invalid_value", "tile")


def ellipse(size: tuple[int, int], x: float, y: float, a: float, b: float, angle: float = 0, hole: float = 0) -> Mask:
    """A filled ellipse, or a ring with a hole of `hole` times its size."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    dx, dy = columns + 0.5 - x, rows + 0.5 - y
    u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    distance = (u / a) ** 2 + (v / b) ** 2
    return np.asarray((distance <= 1) & (distance > hole**2))


def rectangle(size: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> Mask:
    mask = np.zeros(size, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def things(masks: Sequence[Mask], classes: Sequence[int] | None = None) -> list[Thing]:
    """Their scores fall in the order given."""
    scores = np.linspace(0.95, 0.4, len(masks))
    return [Thing(mask, 0 if classes is None else classes[i], float(scores[i])) for i, mask in enumerate(masks)]


def predict(drawn: Sequence[Thing], *, prompt: Any = None, nms: Any = "off", **options: Any) -> Result:
    height, width = drawn[0].mask.shape
    blank = np.zeros((height, width, 3), np.uint8)
    prompt = CLASSES if prompt is None else prompt
    return Oracle(drawn).model().predict(blank, prompt, nms=nms, max_detections=1000, **options)


def assert_as_drawn(result: Result, drawn: Sequence[Thing]) -> None:
    """Every thing once, as it was drawn."""
    expected = sorted(drawn, key=lambda thing: -thing.score)
    assert result.class_ids.tolist() == [thing.class_id for thing in expected]
    assert result.rles == tuple(encode(thing.mask) for thing in expected)
    np.testing.assert_array_equal(result.boxes, np.array([tight(thing.mask) for thing in expected]))
    np.testing.assert_array_equal(result.scores, np.array([thing.score for thing in expected], np.float32))
    assert result.areas is not None
    assert result.areas.tolist() == [thing.mask.sum() for thing in expected]
    assert not any(result.removed.values())


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Thing], dict[str, int]]:
    """Ellipses, rings and rectangles of three classes that may touch or lie in a ring, but do not cover each other."""
    size = (draw(st.integers(70, 240)), draw(st.integers(101, 300)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    taken = np.zeros(size, np.bool_)
    masks = []
    for _ in range(draw(st.integers(1, 12))):
        x, y = rng.uniform(0, size[1]), rng.uniform(0, size[0])
        a, b = rng.uniform(2, 90, 2)
        kind = rng.integers(3)
        if kind == 2:
            mask = rectangle(size, *(int(max(0, side)) for side in (x - a, y - b, x + a, y + b)))
        else:
            mask = ellipse(size, x, y, max(a, 4), max(b, 4), rng.uniform(0, 3), hole=0.5 * kind)
        if mask.any() and not (mask & taken).any():
            taken |= mask
            masks.append(mask)
    assume(masks)
    tile = {"size": draw(st.integers(64, 100)), "overlap": draw(st.integers(16, 32))}
    return things(masks, rng.integers(0, 3, len(masks)).tolist()), tile


@given(scenes())
@FAST
def test_tiled_is_untiled_for_stages_that_see_right(scene: tuple[list[Thing], dict[str, int]]) -> None:
    drawn, tile = scene
    tiled, untiled = predict(drawn, tile=tile), predict(drawn)
    assert_as_drawn(untiled, drawn)
    assert_as_drawn(tiled, drawn)
    assert tiled.labels == untiled.labels
    np.testing.assert_array_equal(tiled.text_scores, untiled.text_scores)
    np.testing.assert_array_equal(tiled.mask_scores, untiled.mask_scores)


SIZE = (260, 260)  # tiles of 100 begin at 0, 53, 106 and 160
CUT = {
    "in a corner of four tiles": [ellipse(SIZE, 80, 80, 12, 12)],
    "as large as the overlap": [rectangle(SIZE, 53, 10, 100, 30)],
    "over one seam": [rectangle(SIZE, 20, 20, 140, 60)],
    "over all tiles": [ellipse(SIZE, 130, 130, 128, 126)],
    "a ring over all tiles": [ellipse(SIZE, 130, 130, 128, 126, hole=0.9)],
    "a ring in a ring of the same class": [
        ellipse(SIZE, 130, 130, 128, 126, hole=0.8),
        ellipse(SIZE, 130, 130, 90, 88, hole=0.8),
    ],
    "a thin diagonal": [ellipse(SIZE, 130, 130, 170, 3, np.pi / 4)],
    "two that touch along a seam": [rectangle(SIZE, 10, 10, 76, 50), rectangle(SIZE, 76, 10, 150, 50)],
    "two that touch across a seam": [rectangle(SIZE, 10, 10, 200, 50), rectangle(SIZE, 10, 50, 200, 90)],
    "two halves of a disc": [
        ellipse(SIZE, 130, 130, 120, 120) & rectangle(SIZE, 0, 0, 260, 131),
        ellipse(SIZE, 130, 130, 120, 120) & rectangle(SIZE, 0, 131, 260, 260),
    ],
    "one behind another": [
        ellipse(SIZE, 130, 130, 120, 60) & ~ellipse(SIZE, 130, 175, 40, 40),
        ellipse(SIZE, 130, 175, 40, 40),
    ],
    "at every border": [rectangle(SIZE, 0, 0, 260, 9), rectangle(SIZE, 251, 9, 260, 260)],
    "single pixels": [rectangle(SIZE, x, x, x + 1, x + 1) for x in (0, 52, 53, 99, 100, 159, 160, 259)],
}


@pytest.mark.parametrize("name", CUT)
def test_an_object_comes_back_once(name: str) -> None:
    drawn = things(CUT[name])
    assert_as_drawn(predict(drawn, tile={"size": 100, "overlap": 40}), drawn)


def test_passes_are_summed_and_warnings_told_once() -> None:
    drawn = things(CUT["over one seam"])
    result = predict(drawn, tile={"size": 100, "overlap": 40})
    assert result.passes == 2 * 16
    assert result.warnings == ("seen",)
    assert set(result.timings_ms) == {"detect", "encode", "masks", "total"}


def test_an_image_that_fits_into_a_tile_is_left_whole() -> None:
    oracle = Oracle(things([rectangle((90, 100), 3, 3, 60, 60)]))
    for tile in ("auto", {"size": 100, "overlap": 40}):
        oracle.model().predict(np.zeros((90, 100, 3), np.uint8), CLASSES, tile=tile)
    assert set(oracle.seen["detect"] + oracle.seen["encode"]) == {None}


def test_only_tiles_with_something_in_them_are_encoded() -> None:
    oracle = Oracle(things([rectangle(SIZE, 120, 120, 150, 150)]))
    oracle.model().predict(np.zeros((*SIZE, 3), np.uint8), CLASSES, tile=TILE)
    assert len(oracle.seen["detect"]) == 16
    assert oracle.seen["encode"] == oracle.seen["decode"] == [(106, 106, 206, 206)]


def test_selection_is_of_the_image() -> None:
    """Area is a share of the whole image, the cap is the image's, and so are the counts."""
    masks = [rectangle(SIZE, 5 + 60 * i, 5 + 60 * j, 35 + 60 * i, 35 + 60 * j) for i in range(4) for j in range(4)]
    masks.append(rectangle(SIZE, 0, 240, 260, 250))
    drawn = things(masks)
    share = 900 / 260**2
    result = predict(drawn, tile=TILE, min_area=0.9 * share, max_area=1.1 * share)
    assert_as_drawn(predict(drawn, tile=TILE), drawn)
    assert len(result) == 16
    assert result.removed == {"negatives": 0, "nms": 0, "area": 1, "cap": 0}
    blank = np.zeros((*SIZE, 3), np.uint8)
    capped = Oracle(drawn).model().predict(blank, CLASSES, nms="off", max_detections=5, tile=TILE)
    assert capped.scores.tolist() == [np.float32(thing.score) for thing in drawn[:5]]
    assert len(capped) + sum(capped.removed.values()) == 17


def test_nms_and_negatives_count_once() -> None:
    """Each in the overlap of four tiles."""
    masks = [rectangle(SIZE, 62, 62, 92, 92), rectangle(SIZE, 62, 62, 92, 91), rectangle(SIZE, 115, 115, 140, 140)]
    drawn = [Thing(masks[0], 0, 0.9), Thing(masks[1], 0, 0.8), Thing(masks[2], 1, 0.5), Thing(masks[2], -1, 0.7)]
    options: dict[str, Any] = {"prompt": ["a", "b"], "nms": "class", "negative_prompt": ["c"]}
    tiled, untiled = predict(drawn, tile=TILE, **options), predict(drawn, **options)
    assert untiled.removed == {"negatives": 1, "nms": 1, "area": 0, "cap": 0}
    assert tiled.removed == untiled.removed
    assert tiled.rles == untiled.rles == (encode(masks[0]),)


# What two tiles say, not always the same. Both are 100 px high; the first spans 0 to 100, the second 60 to 160.

TWO = Tiling((100, 160), ((0, 0, 100, 100), (60, 0, 160, 100)))
SPOT, ONES = np.array([[10, 10, 100, 20]], np.float32), np.ones(1, np.float32)
Said = tuple[Mask, int, float]  # a mask in the image's frame, class, score


def merged(
    *tiles: Sequence[Said], masks: bool = True, **options: Any
) -> tuple[Detections, Masks | None, dict[str, int]]:
    """`merge` of what each tile says, its masks cut to it."""
    kept, decoded = [], []
    for (x0, y0, x1, y1), said in zip(TWO.regions, tiles, strict=True):
        cut = [mask[y0:y1, x0:x1] for mask, _, _ in said]
        scores = np.array([score for _, _, score in said], np.float32)
        boxes = np.array([tight(mask) for mask in cut], np.float32).reshape(-1, 4)
        classes = np.array([class_id for _, class_id, _ in said], np.int32)
        kept.append(Detections(boxes, scores, scores * np.float32(0.5), classes, (100, 100)))
        areas = np.array([mask.sum() for mask in cut], np.int32)
        quality = np.linspace(0.9, 0.5, len(said), dtype=np.float32)
        decoded.append(Masks(tuple(encode(mask) for mask in cut), quality, areas))
    return merge(TWO, admitted(*kept), decoded if masks else None, SelectionOptions(**options))


def admitted(*kept: Detections) -> list[Admitted]:
    return [Admitted(found, np.zeros((0, 4), np.float32), {"negatives": 0, "nms": 0, "cap": 0}) for found in kept]


def bar(x0: int, x1: int, y0: int = 40, y1: int = 60) -> Mask:
    return rectangle((100, 160), x0, y0, x1, y1)


def names(found: Detections) -> list[tuple[int, float]]:
    return [(int(a), round(float(b), 3)) for a, b in zip(found.class_ids, found.scores, strict=True)]


def test_the_tile_that_sees_it_deepest_has_the_say() -> None:
    found, masks, _ = merged([(bar(70, 98), 0, 0.9)], [(bar(69, 98), 1, 0.4)])
    assert names(found) == [(1, 0.4)]
    assert masks is not None
    assert masks.rles == (encode(bar(69, 98)),)


def test_a_cut_piece_gives_way_to_the_whole() -> None:
    """It reaches a little beyond what the other tile sees: a box is not exact."""
    whole = bar(65, 130)
    sloppy = bar(55, 100) & (whole | bar(55, 65))
    for class_id in (0, 1):
        found, masks, _ = merged([(sloppy, class_id, 0.9)], [(whole, 0, 0.5)])
        assert names(found) == [(0, 0.5)]
        assert masks is not None
        assert masks.rles == (encode(whole),)


def test_a_large_cut_object_is_no_piece_of_a_small_one_before_it() -> None:
    small, large = bar(70, 90, 45, 55), bar(0, 160)
    found, _, _ = merged([(large, 0, 0.9), (small, 1, 0.8)], [(large, 0, 0.7), (small, 1, 0.6)])
    assert names(found) == [(0, 0.9), (1, 0.8)]
    np.testing.assert_array_equal(found.boxes, [tight(large), tight(small)])


def test_scores_are_those_of_the_surest_piece_and_mask_scores_weigh_by_area() -> None:
    found, masks, _ = merged([(bar(20, 160), 0, 0.4)], [(bar(90, 92, 0, 30), 1, 0.7), (bar(20, 160), 0, 0.6)])
    assert names(found) == [(1, 0.7), (0, 0.6)]
    np.testing.assert_allclose(found.text_scores, [0.35, 0.3])
    assert masks is not None
    np.testing.assert_allclose(masks.mask_scores, [0.9, (80 * 0.9 + 100 * 0.5) / 180], rtol=1e-6)


def test_pieces_that_are_named_differently_come_back_once() -> None:
    found, masks, _ = merged([(bar(20, 160), 0, 0.5)], [(bar(20, 160), 1, 0.6)])
    assert names(found) == [(1, 0.6)]
    assert masks is not None
    assert masks.rles == (encode(bar(20, 160)),)


def test_what_both_tiles_name_twice_stays_twice() -> None:
    both = [(bar(20, 160), 0, 0.5), (bar(20, 160), 1, 0.4)]
    found, _, _ = merged(both, both)
    assert names(found) == [(0, 0.5), (1, 0.4)]
    found, _, _ = merged(both, both[:1])  # the second tile does not say that it is nothing else
    assert names(found) == [(0, 0.5), (1, 0.4)]


def test_a_mask_over_two_objects_does_not_make_one_of_them() -> None:
    upper, lower = bar(20, 160, 30, 55), bar(20, 160, 55, 80)
    found, masks, _ = merged([(upper, 0, 0.9), (lower, 0, 0.8)], [(upper | lower, 0, 0.7)])
    assert names(found) == [(0, 0.9), (0, 0.8)]
    assert masks is not None
    assert masks.rles[1] == encode(lower & bar(0, 100, 0, 100))


def test_a_mask_that_misses_a_part_is_still_of_the_same_object() -> None:
    ring = ellipse((100, 160), 80, 50, 70, 40, hole=0.6)
    half = ring & ~bar(60, 100, 11, 50) & ~bar(60, 100, 80, 100)  # a fifth of it where both look, but as tall
    found, masks, _ = merged([(half, 0, 0.9)], [(ring, 0, 0.8)])
    assert names(found) == [(0, 0.9)]
    assert masks is not None
    assert masks.rles == (encode((half & bar(0, 100, 0, 100)) | (ring & bar(60, 160, 0, 100))),)


def test_an_object_before_another_of_its_class_stays() -> None:
    large, small = bar(20, 160, 20, 80), bar(20, 160, 45, 55)
    found, masks, _ = merged([(large, 0, 0.9)], [(small, 0, 0.8)])
    assert names(found) == [(0, 0.9), (0, 0.8)]
    assert masks is not None
    assert masks.areas.tolist() == [80 * 60, 100 * 10]


def test_a_part_that_the_other_tile_does_not_set_apart_is_none() -> None:
    """The second tile sees only a part of what the first sees whole: deeper, as it is smaller."""
    whole, part = bar(50, 96), bar(75, 96)
    found, masks, _ = merged([(whole, 0, 0.5)], [(part, 0, 0.9)])
    assert names(found) == [(0, 0.5)]
    assert masks is not None
    assert masks.rles == (encode(whole),)
    assert len(merged([(whole, 0, 0.5)], [(part, 1, 0.9)])[0]) == 2  # a wheel is no second car


def test_what_the_other_tile_sets_apart_stays() -> None:
    """One before another of its class; the first tile left it to the second."""
    large, small = bar(50, 96), bar(75, 96)
    kept = [
        Detections(tight(mask)[None], ONES, ONES, np.zeros(1, np.int32), (100, 100)) for mask in (large, small[:, 60:])
    ]
    masks = [Masks((encode(mask),), ONES, np.array([1], np.int32)) for mask in (large[:, :100], small[:, 60:])]
    first, second = admitted(*kept)
    found, _, _ = merge(TWO, [replace(first, left=tight(small)[None]), second], masks, SelectionOptions())
    assert len(found) == 2
    assert len(merge(TWO, [first, second], masks, SelectionOptions())[0]) == 1


def test_the_box_of_an_object_in_pieces_is_around_its_mask() -> None:
    cut = [bar(20, 160)[:, :100], bar(20, 160)[:, 60:]]
    kept = [
        Detections(
            tight(mask)[None] + np.array([0, 3, 0, -2], np.float32), ONES, ONES, np.zeros(1, np.int32), (100, 100)
        )
        for mask in cut
    ]
    masks = [Masks((encode(mask),), ONES, np.array([mask.sum()], np.int32)) for mask in cut]
    found, _, _ = merge(TWO, admitted(*kept), masks, SelectionOptions())
    np.testing.assert_array_equal(found.boxes, [tight(bar(20, 160))])


def test_boxes_in_the_middle_of_an_overlap_are_not_left_by_each_tile_to_the_other() -> None:
    """Each tile sees it a pixel nearer to itself than the other does."""
    first = np.array([[70, 40, 91, 60]], np.float32)
    second = np.array([[9, 40, 30, 60]], np.float32)  # 69 to 90 in the image
    counted = 0
    for number, boxes in enumerate((first, second)):
        found = Detections(boxes, ONES, ONES, np.zeros(1, np.int32), (100, 100))
        counted += len(TWO.admit(found, number, SelectionOptions()).kept)
    assert counted == 2
    deeper = Detections(first + np.array([10, 0, 9, 0], np.float32), ONES, ONES, np.zeros(1, np.int32), (100, 100))
    left = TWO.admit(deeper, 0, SelectionOptions())
    assert len(left.kept) == 0
    np.testing.assert_array_equal(left.left, deeper.boxes)


def test_a_neighbour_that_says_nothing_leaves_a_piece_as_it_is() -> None:
    found, masks, _ = merged([(bar(20, 160), 0, 0.5)], [])
    assert names(found) == [(0, 0.5)]
    assert masks is not None
    assert masks.rles == (encode(bar(20, 100)),)
    np.testing.assert_array_equal(found.boxes, [tight(bar(20, 100))])


def test_boxes_alone_are_merged_too() -> None:
    said = [(bar(20, 160), 0, 0.5), (bar(20, 160, 62, 70), 0, 0.4)]
    found, masks, _ = merged(said, said, masks=False)
    assert masks is None
    assert names(found) == [(0, 0.5), (0, 0.4)]
    np.testing.assert_array_equal(found.boxes, [tight(bar(20, 160)), tight(bar(20, 160, 62, 70))])


def test_nms_area_and_cap_come_after_merging() -> None:
    long, nearly, other, small = bar(10, 150), bar(10, 150, 40, 58), bar(2, 40, 80, 99), bar(110, 120, 5, 10)
    first = [(long, 0, 0.9), (other, 0, 0.5)]
    second = [(nearly, 1, 0.8), (small, 0, 0.6)]
    found, _, removed = merged(first, second, nms="agnostic", min_area=0.01, max_detections=1)
    assert names(found) == [(0, 0.9)]
    assert removed == {"negatives": 0, "nms": 0, "area": 1, "cap": 1}
    found, _, removed = merged([(long, 0, 0.9), (nearly, 1, 0.8)], [(long, 0, 0.7), (nearly, 1, 0.6)], nms="agnostic")
    assert names(found) == [(0, 0.9)]
    assert removed == {"negatives": 0, "nms": 1, "area": 0, "cap": 0}


def test_nothing_found_and_empty_masks() -> None:
    found, masks, _ = merged([], [])
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert masks is not None
    assert len(masks) == len(masks.mask_scores) == len(masks.areas) == 0
    nothing = Masks((encode(np.zeros((100, 100), np.bool_)),), np.array([0.3], np.float32), np.zeros(1, np.int32))
    one = Detections(SPOT, ONES, ONES, np.zeros(1, np.int32), (100, 100))
    found, masks, _ = merge(TWO, admitted(one, one), [nothing, nothing], SelectionOptions(nms="off"))
    assert len(found) == 2
    assert masks is not None
    assert masks.rles == (encode(np.zeros((100, 160), np.bool_)),) * 2


def test_merging_ends_at_the_deadline() -> None:
    said = Detections(SPOT, ONES, ONES, np.zeros(1, np.int32), (100, 100))
    with pytest.raises(StageError) as refused:
        merge(TWO, admitted(said, said), None, SelectionOptions(), deadline=time.time())
    assert refused.value.code == "deadline_exceeded"


def test_the_best_pieces_are_kept_when_there_are_too_many() -> None:
    rng = np.random.default_rng(0)
    counts = [MAX_PIECES // 2, 0, MAX_PIECES, 7]
    kept = []
    for count in counts:
        scores = rng.random(count).round(2).astype(np.float32)
        boxes, classes = np.zeros((count, 4), np.float32), np.zeros(count, np.int32)
        kept.append(Detections(boxes, scores, scores, classes, (9, 9), passes=3))
    limited = limit(admitted(*kept))
    left = [one.kept for one in limited]
    assert sum(map(len, left)) == MAX_PIECES
    assert sum(one.removed["cap"] for one in limited) == sum(counts) - MAX_PIECES
    expected = np.sort(np.concatenate([found.scores for found in kept]))[-MAX_PIECES:]
    np.testing.assert_array_equal(np.sort(np.concatenate([found.scores for found in left])), expected)
    assert [found.passes for found in left] == [3] * 4
    assert sum(one.removed["cap"] for one in limit(admitted(*kept[:2]))) == 0
