"""Fixed batch sizes: filled up, cut up, and the plain pass where anything fails. No compiler, no GPU."""

from __future__ import annotations

import logging
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.bundle import resolve
from pipeline.image_encoder import ImageEncoder
from pipeline.models.buckets import Bucketed, up_to
from tests.pipeline.judge import deviation, photo

EXAMPLE = torch.ones(1, 3, 2)


class Watched:
    """Row sums, and the sizes of the batches that they were asked for."""

    def __init__(self, off: float = 0.0) -> None:
        self.sizes: list[int] = []
        self.off = off

    def __call__(self, rows: Tensor) -> Tensor:
        self.sizes.append(len(rows))
        return rows.sum((1, 2)) + self.off


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (2, [2]), (3, [4]), (5, [8]), (8, [8]), (9, [8, 1]), (21, [8, 8, 8])]
)
def test_batches_are_filled_up_and_cut_up(count: int, sizes: list[int]) -> None:
    compiled = Watched()
    bucketed = Bucketed(Watched(), compiled, EXAMPLE, tolerance=1e-6)
    assert compiled.sizes == [1, 2, 4, 8]  # each made ready
    compiled.sizes.clear()
    rows = torch.randn(count, 3, 2)
    assert torch.equal(bucketed(rows), rows.sum((1, 2)))
    assert compiled.sizes == sizes


def test_only_buckets_that_are_needed() -> None:
    assert [up_to(batch) for batch in (1, 2, 3, 5, 8, 100)] == [
        [1],
        [1, 2],
        [1, 2, 4],
        [1, 2, 4, 8],
        [1, 2, 4, 8],
        [1, 2, 4, 8],
    ]


@pytest.mark.parametrize("fault", ["raises", "is wrong", "is no number"])
def test_what_fails_is_left_out_with_one_warning(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    plain = Watched()

    def broken(rows: Tensor) -> Tensor:
        if fault == "raises":
            raise RuntimeError("no compiler\nand a long story")
        return rows.sum((1, 2)) + (0.1 if fault == "is wrong" else float("nan"))

    with caplog.at_level(logging.WARNING):
        bucketed = Bucketed(plain, broken, EXAMPLE, tolerance=1e-3)
    assert len(caplog.records) == 1
    assert "long story" not in caplog.text
    rows = torch.randn(3, 3, 2)
    assert torch.equal(bucketed(rows), rows.sum((1, 2)))
    assert plain.sizes[-1] == 3  # as they come: nothing wants a fixed size


def test_a_compiled_image_encoder_gives_the_same_embeddings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Traced as `torch.compile` does; machine code would take most of a minute. Nothing compiles after the start."""
    compilations: list[int] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        compilations.append(len(inputs))
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counting))
    with caplog.at_level(logging.WARNING):
        bundle = resolve("tiny", "segmenter")
        compiled = ImageEncoder.from_bundle(bundle, compile=True, max_batch=2)
    assert caplog.records == []
    assert len(compilations) == 4  # blocks with windows and without, for one image and for two
    plain = ImageEncoder.from_bundle(bundle)
    items = [plain.prepare(photo(100, 140, seed)) for seed in range(3)]
    compilations.clear()
    found, expected = compiled.forward(items), plain.forward(items)
    assert len(found) == 3
    assert deviation(np.stack(found), np.stack(expected)) <= 1e-5
    assert compilations == []
