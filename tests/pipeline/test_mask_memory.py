"""Finishing masks takes the memory of a few, however many they are. Whole processes: `benchmarks/mask_memory.py`."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from pipeline.bundle import resolve
from pipeline.mask_decoder import LowResolution, MaskDecoder
from pipeline.masks import area
from pipeline.stages import DecodeOptions, Embedding, MaskPrompts

HEIGHT, WIDTH = 3000, 4000
DENSE = HEIGHT * WIDTH  # bytes of one mask as booleans; four times as many as floats


@pytest.mark.usefixtures("one_thread")
def test_peak_of_many_large_masks() -> None:
    decoder = MaskDecoder.from_bundle(resolve("tiny", "segmenter"))
    arch, count = decoder.arch, 24
    side = arch.embedding_size
    features = np.zeros((arch.out_chans, side, side), np.float32)
    embedding = Embedding(features, (arch.image_size * HEIGHT // WIDTH, arch.image_size), (HEIGHT, WIDTH))
    corners = np.tile(np.array([0, 0, WIDTH, HEIGHT], np.float32), (count, 1))
    item = decoder.prepare(embedding, MaskPrompts(boxes=corners), DecodeOptions())
    rows, columns = np.mgrid[: 4 * side, : 4 * side]
    disc = (side - np.hypot(rows - 1.5 * side, columns - 2 * side)).astype(np.float32)
    raw = LowResolution(np.repeat(disc[None, None], count, 0), np.ones((count, 1), np.float32))
    decoder.finish(item, raw)  # fills the tables that are kept
    tracemalloc.start()
    masks = decoder.finish(item, raw)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(masks) == count
    assert area(masks.rles[0]) == pytest.approx(np.pi * (WIDTH / 4) ** 2, rel=0.01)
    assert peak < 8 * DENSE  # all masks together are 24, or 96 in floats
