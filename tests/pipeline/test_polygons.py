"""Polygons, judged by other programs' fillers, by scipy's labels, and by drawings whose rings are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.path import Path as OutlinePath
from PIL import Image, ImageDraw
from pycocotools import mask as coco
from scipy import ndimage

from pipeline.errors import StageError
from pipeline.masks import decode, encode
from pipeline.polygon_fill import fill
from pipeline.polygons import Part, simplify, trace, trace_bridged
from pipeline.stages import RLE

repeatable = settings(derandomize=True, deadline=None, max_examples=150)

Array = np.ndarray[Any, Any]

small = hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))
# Also sparse and dense ones, where holes lie in holes' parts, and larger ones.
masks = st.one_of(
    small,
    st.builds(
        lambda shape, density, seed: np.random.default_rng(seed).random(shape) < density,
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.sampled_from([0.05, 0.4, 0.6, 0.95]),
        st.integers(0, 999),
    ),
)


def drawing(*rows: str) -> Array:
    return np.array([[sign == "#" for sign in row] for row in rows])


def centres(height: int, width: int) -> Array:
    y, x = np.mgrid[:height, :width]
    return np.stack([x.ravel(), y.ravel()], axis=1) + 0.5


def inside(part: Part, size: tuple[int, int]) -> Array:
    """The pixels of a part, by matplotlib: in its exterior and in none of its holes."""
    exterior, *holes = (OutlinePath(np.vstack([ring, ring[:1]]), closed=True) for ring in part)
    points = centres(*size)
    found = exterior.contains_points(points)
    for hole in holes:
        found &= ~hole.contains_points(points)
    return np.asarray(found).reshape(size)


def signed_area(ring: Array) -> int:
    x, y = ring.T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) // 2


@repeatable
@given(masks)
def test_there_and_back_is_the_same_mask(mask: Array) -> None:
    rle = encode(mask)
    assert fill(trace(rle), rle.size) == rle
    assert fill([[ring.tolist() for ring in part] for part in trace(rle)], rle.size) == rle


@repeatable
@given(masks)
def test_parts_are_the_4_connected_components(mask: Array) -> None:
    parts = trace(encode(mask))
    labels, count = ndimage.label(mask)
    assert len(parts) == count
    for part in parts:
        found = inside(part, mask.shape)
        (label,) = np.unique(labels[found])
        np.testing.assert_array_equal(found, labels == label)


@repeatable
@given(masks)
def test_rings_are_simple_and_as_short_as_can_be(mask: Array) -> None:
    for part in trace(encode(mask)):
        for number, ring in enumerate(part):
            assert len(np.unique(ring, axis=0)) == len(ring) >= 4  # no ring comes by a point twice
            steps = np.roll(ring, -1, axis=0) - ring
            assert ((steps == 0).sum(axis=1) == 1).all()  # along one axis
            assert ((steps == 0)[:, 0] != np.roll(steps == 0, 1, axis=0)[:, 0]).all()  # and then the other
            assert (signed_area(ring) > 0) == (number == 0)  # exteriors clockwise, where y points down


@repeatable
@given(masks)
def test_areas_are_those_of_pycocotools(mask: Array) -> None:
    height, width = mask.shape
    for part in trace(encode(mask)):
        expected = inside(part, mask.shape).sum()
        assert sum(signed_area(ring) for ring in part) == expected
        rles = coco.frPyObjects([ring.ravel().astype(float).tolist() for ring in part], height, width)
        exterior, *holes = coco.area(rles).tolist()
        assert exterior - sum(holes) == expected


@repeatable
@given(masks)
def test_pil_draws_the_same_mask(mask: Array) -> None:
    """PIL fills outlines too, by pixels that they pass: between pixels, at six times the size, there is no doubt."""
    height, width = mask.shape
    scale = 6
    image = Image.new("1", (width * scale, height * scale))
    draw = ImageDraw.Draw(image)
    parts = trace(encode(mask))
    # A part may lie in another's hole: from the outermost inwards, by area.
    for part in sorted(parts, key=lambda part: -signed_area(part[0])):
        for number, ring in enumerate(part):
            draw.polygon([(x * scale, y * scale) for x, y in ring.tolist()], fill=number == 0, outline=number == 0)
    np.testing.assert_array_equal(np.asarray(image)[scale // 2 :: scale, scale // 2 :: scale], mask)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["...", "..."], []),
        (["##", "##"], [[[(0, 0), (2, 0), (2, 2), (0, 2)]]]),
        ([".#", ".#"], [[[(1, 0), (2, 0), (2, 2), (1, 2)]]]),
        # Two pixels that touch at a corner are two parts.
        (["#.", ".#"], [[[(0, 0), (1, 0), (1, 1), (0, 1)]], [[(1, 1), (2, 1), (2, 2), (1, 2)]]]),
        ([".#", "#."], [[[(1, 0), (2, 0), (2, 1), (1, 1)]], [[(0, 1), (1, 1), (1, 2), (0, 2)]]]),
        # A hole, and a part in the hole.
        (
            ["#####", "#...#", "#.#.#", "#...#", "#####"],
            [
                [[(0, 0), (5, 0), (5, 5), (0, 5)], [(4, 1), (1, 1), (1, 4), (4, 4)]],
                [[(2, 2), (3, 2), (3, 3), (2, 3)]],
            ],
        ),
        # A part that meets itself at a corner: the hole touches the exterior there.
        (
            ["###", "#.#", "##."],
            [[[(0, 0), (3, 0), (3, 2), (2, 2), (2, 3), (0, 3)], [(2, 1), (1, 1), (1, 2), (2, 2)]]],
        ),
        # Two holes that touch, one of them below the other.
        (
            ["####", "#.##", "##.#", "####"],
            [[[(0, 0), (4, 0), (4, 4), (0, 4)], [(2, 1), (1, 1), (1, 2), (2, 2)], [(3, 2), (2, 2), (2, 3), (3, 3)]]],
        ),
    ],
)
def test_known_drawings(rows: list[str], expected: list[list[list[tuple[int, int]]]]) -> None:
    parts = trace(encode(drawing(*rows)))
    got = [[{tuple(point) for point in ring.tolist()} for ring in part] for part in parts]
    assert got == [[set(ring) for ring in part] for part in expected]
    for part, rings in zip(parts, expected, strict=True):
        for ring, points in zip(part, rings, strict=True):  # the same sequence, from whatever point on
            start = points.index(tuple(ring[0].tolist()))
            assert [tuple(point) for point in ring.tolist()] == points[start:] + points[:start]


@pytest.mark.parametrize("shape", [(1, 70_000), (70_000, 1)])
def test_sides_beyond_two_bytes(shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, np.bool_)
    mask.ravel()[10:66_000] = True
    mask.ravel()[69_990:] = True
    rle = encode(mask)
    parts = trace(rle)
    assert [signed_area(part[0]) for part in parts] == [65_990, 10]
    assert fill(parts, rle.size) == rle


# ---- without holes


@repeatable
@given(masks)
def test_one_ring_a_part_fills_to_the_same_mask(mask: Array) -> None:
    rings = trace_bridged(encode(mask))
    assert len(rings) == ndimage.label(mask)[1]
    assert fill([[ring] for ring in rings], mask.shape) == encode(mask)
    for ring in rings:  # bridges too run along the axes
        assert (((np.roll(ring, -1, axis=0) - ring) == 0).any(axis=1)).all()
    corners = {tuple(point) for part in trace(encode(mask)) for ring in part for point in ring.tolist()}
    assert corners <= {tuple(point) for ring in rings for point in ring.tolist()}


@repeatable
@given(masks, st.sampled_from([0.01, 0.25, 0.49]))
def test_inset_rings_name_the_pixels_of_their_part(mask: Array, inset: float) -> None:
    labels, _ = ndimage.label(mask)
    rings = trace_bridged(encode(mask), inset)
    assert fill([[ring] for ring in rings], mask.shape) == encode(mask)
    for ring in rings:
        (label,) = np.unique(labels[tuple(ring.astype(int).T[::-1])])
        assert label > 0


# ---- fewer points


@repeatable
@given(masks, st.sampled_from([0.3, 0.8, 2.0, 50.0]))
def test_what_simplifying_leaves_out_is_near_what_stays(mask: Array, tolerance: float) -> None:
    for ring in trace_bridged(encode(mask)):
        fewer = simplify(ring, tolerance)
        assert len(fewer) >= 3
        np.testing.assert_array_equal(fill([[simplify(ring, 0)]], mask.shape), fill([[ring]], mask.shape))
        start, along = fewer, np.roll(fewer, -1, axis=0) - fewer
        away = ring[:, None] - start
        share = (away * along).sum(axis=2) / np.maximum((along**2).sum(axis=1), 1e-12)
        distance = np.hypot(*np.moveaxis(away - np.clip(share, 0, 1)[..., None] * along, 2, 0)).min(axis=1)
        assert distance.max() <= tolerance + 1e-9


def test_simplifying_keeps_the_corners_and_drops_the_rest() -> None:
    y, x = np.mgrid[:60, :60]
    (stairs,) = trace_bridged(encode(x <= y))
    assert len(stairs) == 2 * 60 + 2
    assert simplify(stairs, 1.0).tolist() == [[0, 0], [60, 60], [0, 60]]


# ---- fill


polygons = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30)), min_size=3, max_size=9)


@repeatable
@given(polygons)
def test_any_ring_is_filled_by_the_centres_of_pixels(points: list[tuple[int, int]]) -> None:
    ring = np.array(points) / 2  # also through centres of pixels: those are left out of the comparison
    size = (15, 20)
    filled = decode(fill([[ring]], size))
    closed = np.vstack([ring, ring[:1]])
    at = centres(*size)
    # Even-odd by counting, in exact arithmetic: sides left of the centre that its row crosses.
    (x0, y0), (x1, y1) = closed[:-1].T, closed[1:].T
    x, y = at[:, :1], at[:, 1:]
    rows = (np.minimum(y0, y1) <= y) & (y < np.maximum(y0, y1))
    side = (x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)
    crossed = rows & (side * np.sign(y1 - y0) > 0)
    between = (np.minimum(x0, x1) <= x) & (x <= np.maximum(x0, x1))
    between &= (np.minimum(y0, y1) <= y) & (y <= np.maximum(y0, y1))
    doubtful = ((side == 0) & between).any(axis=1)
    expected = crossed.sum(axis=1) % 2 == 1
    np.testing.assert_array_equal(filled.ravel()[~doubtful], expected[~doubtful])


def test_a_closed_ring_is_the_same_ring() -> None:
    ring = [[1, 1], [4, 1], [4, 3], [1, 3]]
    assert fill([[[*ring, ring[0]]]], (5, 6)) == fill([[ring]], (5, 6)) != encode(np.zeros((5, 6)))
    assert fill([], (5, 6)) == fill([[]], (5, 6)) == encode(np.zeros((5, 6)))
    assert fill([[np.zeros((0, 2))]], (5, 6)) == encode(np.zeros((5, 6)))


@pytest.mark.parametrize(
    "polygons",
    [
        [[[[0, 0], [9, 0], [9, 9]]]],  # beyond the image
        [[[[0, 0], [-1, 0], [3, 3]]]],
        [[[[0, 0], [float("nan"), 0], [3, 3]]]],
        [[[[0, 0], [float("inf"), 0], [3, 3]]]],
        [[[[0, 0, 1], [3, 0, 1]]]],
        [[[0, 0, 3, 0, 3, 3]]],
        [[[[0, 0], [3]]]],
        [[[["a", 0], [3, 0]]]],
        [[[[0, 0], None]]],
        [[[[0, 0], [5, 3]] * 400]],  # a few points, many sides
    ],
)
def test_what_is_no_polygon_of_the_image_is_refused(polygons: Any) -> None:
    with pytest.raises(StageError) as caught:
        fill(polygons, (5, 6))
    assert caught.value.code == "invalid_value"


def test_malformed_run_lengths_are_refused() -> None:
    with pytest.raises(StageError):
        trace(RLE((2, 2), "3"))
