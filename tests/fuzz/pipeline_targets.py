"""What reads a caller's bytes in `pipeline/`, each as a function of bytes.

A function returns where its parser accepts the input or refuses it as documented. What else is raised is a finding: an
error that the parser does not document, or a broken promise about what it returned.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pipeline import masks
from pipeline.errors import StageError
from pipeline.formats.low_res import MAX_SIDE, low_res_json, read_low_res
from pipeline.formats.masks import mask_json, read_mask
from pipeline.image import ImageLimits, decode, read_size
from pipeline.image_header import read_header
from pipeline.mask_prompts import MAX_INSTANCES, MAX_LOW_RES, MAX_POINTS, fit, parse_mask_prompts
from pipeline.models.registry import EMBEDDED
from pipeline.prompt import MAX_CLASSES, Tokenizer, normalise, parse_classes
from pipeline.stages import RLE, DecodeOptions, DetectRequest, TextClass
from pipeline.tiling import MAX_TILES, parse_tile, plan

LIMITS = ImageLimits(max_bytes=2**20, max_pixels=4096, max_side=512)
_PIXELS = 2**18  # of masks that are decoded here
_TOKENIZER = Tokenizer(EMBEDDED["detector"] / "vocab.txt", 32)


def value_of(data: bytes) -> Any:
    """`data` as Python's own JSON has it, so with NaN and Infinity; None where it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def text_of(data: bytes) -> str:
    """`data` as text, halves of surrogate pairs included; other broken UTF-8 replaced."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def image_header(data: bytes) -> None:
    try:
        header = read_header(data)
    except StageError as error:
        assert error.code in ("image_format_not_allowed", "image_undecodable")
        return
    assert min(header.size) >= 1
    assert 1 <= header.orientation <= 8
    assert sorted(header.size) == sorted(header.upright_size)


def image(data: bytes) -> None:
    try:
        size = read_size(data, LIMITS)
        pixels = decode(data, LIMITS)
    except StageError as error:
        assert error.code in ("image_too_large", "image_format_not_allowed", "image_undecodable")
        return
    assert pixels.shape == (*size, 3)
    assert pixels.dtype == np.uint8
    assert size[0] * size[1] <= LIMITS.max_pixels


def rle(data: bytes) -> None:
    """Two bytes each of height and width, then the counts."""
    height, width = int.from_bytes(data[:2], "little"), int.from_bytes(data[2:4], "little")
    _sound(RLE((height, width), data[4:].decode("latin-1")))


def _sound(mask: RLE) -> None:
    try:
        area = masks.area(mask)
    except StageError as error:
        assert error.code == "invalid_value"
        return
    height, width = mask.size
    assert 0 <= area <= height * width
    if height * width > _PIXELS:
        return
    pixels = masks.decode(mask)
    assert pixels.shape == mask.size
    assert pixels.sum() == area
    assert (masks.decode(masks.encode(pixels)) == pixels).all()
    window, (y0, x0) = masks.decode_crop(mask)
    assert window.sum() == area
    assert (pixels[y0 : y0 + window.shape[0], x0 : x0 + window.shape[1]] == window).all()
    assert masks.row_runs(mask).sum() == height * width


def mask_form(data: bytes) -> None:
    value = value_of(data)
    if not isinstance(value, dict):
        return
    try:
        mask = read_mask(value)
    except (ValueError, KeyError, TypeError, StageError):
        return
    _sound(mask)
    if value["format"] != "rle" and 0 < mask.size[0] * mask.size[1] <= _PIXELS:  # a sound one, so it can be written
        for form in ("rle", "polygon", "png"):
            assert (masks.decode(read_mask(mask_json(mask, form))) == masks.decode(mask)).all()


def low_res(data: bytes) -> None:
    value = value_of(data)
    if not isinstance(value, dict):
        return
    try:
        logits = read_low_res(value)
    except StageError as error:
        assert error.code == "invalid_value"
        return
    assert logits.shape[0] == logits.shape[1] <= MAX_SIDE
    assert logits.dtype == np.float16
    assert np.array_equal(read_low_res(low_res_json(logits)), logits, equal_nan=True)


def prompt_text(data: bytes) -> None:
    text = text_of(data)
    for mode in ("classes", "phrase"):
        _classes(text, mode)


def prompt_json(data: bytes) -> None:
    _classes(value_of(data), "classes")


def _classes(prompt: Any, mode: Any) -> None:
    try:
        classes = parse_classes(prompt, mode)
    except StageError as error:
        assert error.code == "invalid_value"
        return
    assert 1 <= len(classes) <= MAX_CLASSES
    ids = [one.class_id for one in classes]
    assert ids == sorted(set(ids))
    for one in classes:
        assert one.label == one.label.strip() != ""
        assert one.text == normalise(one.text) != ""
        assert one.box_threshold is None or 0 <= one.box_threshold <= 1
    _captions(classes)


def _captions(classes: tuple[TextClass, ...]) -> None:
    try:
        captions = _TOKENIZER.captions(classes)
    except StageError as error:
        assert error.code == "invalid_value"
        return
    assert sorted(index for caption in captions for index in caption.class_index) == list(range(len(classes)))
    special = {_TOKENIZER.cls_id, _TOKENIZER.sep_id, _TOKENIZER.pad_id, _TOKENIZER.dot_id}
    for caption in captions:
        assert len(caption.token_ids) <= _TOKENIZER.max_tokens
        for start, end in caption.spans:
            assert start < end
            assert special.isdisjoint(caption.token_ids[start:end])


def mask_prompts(data: bytes) -> None:
    """An object with the arguments of `parse_mask_prompts`."""
    value = value_of(data)
    if not isinstance(value, dict):
        return
    options = DecodeOptions(low_res=value.get("low_res") is True)
    try:
        prompts = parse_mask_prompts(value.get("boxes"), value.get("points"), value.get("mask_input"), options)
        fitted, _ = fit(prompts, (48, 64))
    except StageError as error:
        assert error.code == "invalid_value"
        return
    assert 1 <= len(fitted) == len(prompts) <= (MAX_LOW_RES if options.low_res else MAX_INSTANCES)
    if fitted.boxes is not None:
        x0, y0, x1, y1 = fitted.boxes.T
        assert ((x0 >= 0) & (x0 < x1) & (x1 <= 64) & (y0 >= 0) & (y0 < y1) & (y1 <= 48)).all()
    for points in fitted.points or ():
        assert points.shape[1:] == (3,)
        assert len(points) <= MAX_POINTS
        assert ((points[:, :2] >= 0) & (points[:, :2] <= (64, 48))).all()
    if fitted.mask_inputs is not None:
        assert np.isfinite(fitted.mask_inputs).all()
        assert len(fitted.mask_inputs) == len(fitted) <= MAX_LOW_RES


def tile(data: bytes) -> None:
    """`[tile, height, width]`."""
    value = value_of(data)
    if not isinstance(value, list) or len(value) != 3:
        return
    size = tuple(side if isinstance(side, int) and 1 <= side <= 32_768 else 2000 for side in value[1:])
    try:
        tiling = plan((size[0], size[1]), parse_tile(value[0]), 800, DetectRequest((TextClass(0, "car", "car"),)))
    except StageError as error:
        assert error.code == "invalid_value"
        return
    if tiling is None:
        return
    assert 2 <= len(tiling.regions) <= MAX_TILES
    assert all(0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0] for x0, y0, x1, y1 in tiling.regions)
    for first, last, length in ((0, 2, size[1]), (1, 3, size[0])):  # along either side they leave no gap
        ends = sorted({(region[first], region[last]) for region in tiling.regions})
        assert ends[0][0] == 0
        assert ends[-1][1] == length
        assert all(before[1] >= after[0] for before, after in zip(ends, ends[1:], strict=False))
