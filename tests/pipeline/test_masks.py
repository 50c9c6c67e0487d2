from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco
from torchvision.ops import box_iou as torch_box_iou

from pipeline.errors import StageError
from pipeline.masks import area, box_area, box_iou, decode, decode_crop, encode, encode_crop
from pipeline.stages import RLE

repeatable = settings(derandomize=True, deadline=None, max_examples=300)

Array = np.ndarray[Any, Any]

# Sides of 1 to 40; noise, blank, full, and blocks, whose long runs need several characters a count.
masks = st.one_of(
    hnp.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))),
    st.tuples(st.integers(1, 300), st.integers(1, 300), st.integers(0, 9)).map(lambda t: blocks(*t)),
)


def blocks(height: int, width: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.bool_)
    for _ in range(seed):
        y0, y1 = sorted(rng.integers(0, height + 1, 2))
        x0, x1 = sorted(rng.integers(0, width + 1, 2))
        mask[y0:y1, x0:x1] ^= True
    return mask


def reference(mask: Array) -> RLE:
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return RLE(tuple(rle["size"]), rle["counts"].decode("ascii"))


def reference_decode(rle: RLE) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools 2.0.11 on numpy 2.4
        return np.asarray(coco.decode({"size": rle.size, "counts": rle.counts.encode()}))


# ---- encode, decode, area


@repeatable
@given(masks)
def test_equals_pycocotools(mask: Array) -> None:
    rle = encode(mask)
    assert rle == reference(mask)
    assert area(rle) == mask.sum() == coco.area({"size": rle.size, "counts": rle.counts.encode()})
    result = decode(rle)
    np.testing.assert_array_equal(result, mask)
    assert result.dtype == np.bool_
    assert result.flags.c_contiguous


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (480, 640), (3000, 4000)])
def test_blank_and_full(size: tuple[int, int], fill: bool) -> None:
    mask = np.full(size, fill)
    assert encode(mask) == reference(mask)
    np.testing.assert_array_equal(decode(encode(mask)), mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_other_types_count_as_foreground_where_not_zero(dtype: type) -> None:
    mask = blocks(20, 30, 4)
    assert encode(mask.astype(dtype) * 3) == encode(mask)


def test_a_large_mask_equals_pycocotools() -> None:
    y, x = np.mgrid[:2000, :3000]
    mask = (np.hypot(y - 900, x - 1400) < 700) ^ ((x // 7 + y // 5) % 11 == 0)
    assert encode(mask) == reference(mask)
    assert encode(np.asfortranarray(mask)) == reference(mask)
    np.testing.assert_array_equal(decode(encode(mask)), mask)


# ---- encode_crop


@repeatable
@given(window=masks, top=st.integers(0, 3), left=st.integers(0, 3), bottom=st.integers(0, 3), right=st.integers(0, 3))
def test_a_window_equals_the_whole_mask(window: Array, top: int, left: int, bottom: int, right: int) -> None:
    whole = np.pad(window, ((top, bottom), (left, right)))
    height, width = whole.shape
    assert encode_crop(window, (top, left), (height, width)) == reference(whole)


def test_an_empty_window_is_an_empty_mask() -> None:
    for shape in ((0, 0), (0, 3), (3, 0)):
        assert encode_crop(np.zeros(shape, np.bool_), (2, 1), (9, 8)) == reference(np.zeros((9, 8)))


@pytest.mark.parametrize("offset", [(-1, 0), (0, -1), (6, 0), (0, 4)])
def test_a_window_must_lie_within_the_mask(offset: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="does not lie within"):
        encode_crop(np.ones((4, 5), np.bool_), offset, (9, 8))


@repeatable
@given(masks)
def test_decode_crop_is_the_smallest_window(mask: Array) -> None:
    window, (y0, x0) = decode_crop(encode(mask))
    if not mask.any():
        assert (window.shape, y0, x0) == ((0, 0), 0, 0)
        return
    y, x = np.nonzero(mask)
    assert (y0, x0, *window.shape) == (y.min(), x.min(), np.ptp(y) + 1, np.ptp(x) + 1)
    np.testing.assert_array_equal(window, mask[y.min() : y.max() + 1, x.min() : x.max() + 1])
    assert encode_crop(window, (y0, x0), mask.shape) == encode(mask)


@repeatable
@given(st.lists(st.integers(0, 3) | st.integers(0, 3000), min_size=1, max_size=30), st.integers(1, 9))
def test_runs_of_any_length_none_too_are_read_as_pycocotools_reads_them(runs: list[int], height: int) -> None:
    runs[-1] += -sum(runs) % height  # whole columns
    size = (height, sum(runs) // height)
    rle = RLE(size, coco.frPyObjects({"size": size, "counts": runs}, *size)["counts"].decode())
    expected = reference_decode(rle)
    np.testing.assert_array_equal(decode(rle), expected)
    window, offset = decode_crop(rle)
    assert encode_crop(window, offset, size) == encode(expected)
    assert area(rle) == expected.sum()


# ---- malformed


@pytest.mark.parametrize(
    "rle",
    [
        RLE((2, 2), ""),
        RLE((2, 2), "3"),  # three of four pixels
        RLE((2, 2), "5"),  # five
        RLE((2, 2), "4 "),  # below the first sign
        RLE((2, 2), "t0"),  # above the last
        RLE((2, 2), "T"),  # ends where more must follow
        RLE((2, 2), "4\u00e9"),
        RLE((2, 2), "4O1"),  # 4, -1, 1: a negative run
        RLE((2, 2), "T" + "P" * 50 + "0"),  # 4, in 260 bits
        RLE((2, 2), "oooooooo" * 1000 + "0"),
        RLE((2, 2), "ooooooo0" * 1000),  # numbers far above the size
        RLE((-2, -2), "4"),
        RLE((100_000, 100_000), "PPigPZ9"),  # sound, but 10 GB
        RLE((2**40, 2**40), "0"),
    ],
)
def test_malformed_is_refused(rle: RLE) -> None:
    for read in (decode, decode_crop, area):
        with pytest.raises(StageError) as caught:
            read(rle)
        assert caught.value.code == "invalid_value"


@repeatable
@given(masks, st.lists(st.tuples(st.integers(0, 99), st.integers(40, 120)), min_size=1, max_size=4))
def test_damaged_counts_are_a_mask_or_a_refusal(mask: Array, damage: list[tuple[int, int]]) -> None:
    counts = list(encode(mask).counts)
    for place, sign in damage:
        counts[place % len(counts)] = chr(sign)
    rle = RLE(mask.shape, "".join(counts))
    try:
        mask = decode(rle)
    except StageError:
        return
    assert area(rle) == mask.sum()
    np.testing.assert_array_equal(mask, reference_decode(rle))


# ---- boxes


boxes = hnp.arrays(np.float32, st.tuples(st.integers(0, 8), st.just(4)), elements=st.integers(0, 60).map(float)).map(
    lambda b: np.concatenate([np.minimum(b[:, :2], b[:, 2:]), np.maximum(b[:, :2], b[:, 2:])], 1)
)


@repeatable
@given(boxes, boxes)
def test_box_iou_equals_torchvision(a: Array, b: Array) -> None:
    result = box_iou(a, b)
    expected = torch_box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert result.dtype == np.float32
    assert result.shape == (len(a), len(b))
    np.testing.assert_allclose(result, np.nan_to_num(expected), rtol=1e-6)  # 0, not NaN, for two empty boxes
    np.testing.assert_array_equal(result, box_iou(b, a).T)


def test_box_area() -> None:
    assert box_area(np.array([[1, 2, 4, 10], [3, 3, 3, 9]], np.float32)).tolist() == [24, 0]
