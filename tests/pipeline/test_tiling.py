"""Tiles: where they lie, and that what they find is what was drawn, as if nothing had been cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pipeline import Result, StageError
from pipeline.masks import encode
from pipeline.stages import DetectRequest, TextClass
from pipeline.tiling import MAX_TILES, TileSize, parse_tile, plan
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
