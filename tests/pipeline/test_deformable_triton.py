"""The kernel for GPUs: its answers by Triton's interpreter, in a process of its own; and that it compiles for real."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.models import deformable_triton

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]


def cases() -> None:
    """Runs in the other process: raises where the kernel differs from the published function."""
    random = torch.Generator().manual_seed(1)
    shapes = [(5, 7), (3, 2), (1, 1)]
    tokens = sum(height * width for height, width in shapes)
    # As they come; more queries than one program takes; one of each; a depth that is no power of two.
    for batch, queries, heads, levels, points, depth in ((2, 9, 2, 3, 2, 24), (1, 33, 1, 1, 1, 1)):
        some = shapes[:levels]
        rows = sum(height * width for height, width in some)
        values = torch.randn(batch, rows, heads, depth, generator=random)
        locations = torch.rand(batch, queries, heads, levels, points, 2, generator=random) * 1.6 - 0.3
        weights = torch.rand(batch, queries, heads, levels, points, generator=random)
        check(values, some, locations, weights)
        if heads == 1:
            continue
        for dtype, tolerance in ((torch.bfloat16, 2e-2), (torch.float16, 3e-3)):
            lower = deformable_triton.fused(values.to(dtype), some, locations, weights)
            assert lower.dtype == dtype
            expected = deformable_triton.published(values.to(dtype), some, locations, weights)
            torch.testing.assert_close(lower, expected, rtol=tolerance, atol=tolerance)
    values = torch.randn(1, tokens, 1, 8, generator=random)
    weights = torch.rand(1, 12, 1, 3, 1, generator=random)
    places = torch.tensor([-5.0, -0.5, -1e-6, 0.0, 1e-6, 0.5, 1.0, 1.0 + 1e-6, 1.5, 5.0, 1e30, 0.1])
    locations = torch.full((1, 12, 1, 3, 1, 2), 0.4)
    for axis in (0, 1):  # at and beyond every border
        there = locations.clone()
        there[..., axis] = places[None, :, None, None, None]
        check(values, shapes, there, weights)
    expected = deformable_triton.fused(values, shapes, locations, weights)
    locations[0, 3] = float("nan")
    found = deformable_triton.fused(values, shapes, locations, weights)
    assert found[0, 3].isnan().all()
    found[0, 3] = expected[0, 3]
    assert torch.equal(found, expected)
    print("all cases")


def check(values: torch.Tensor, shapes: list[tuple[int, int]], locations: torch.Tensor, weights: torch.Tensor) -> None:
    found = deformable_triton.fused(values, shapes, locations, weights)
    expected = deformable_triton.published(values, shapes, locations, weights)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_kernel_by_the_interpreter() -> None:
    code = "from tests.pipeline.test_deformable_triton import cases; cases()"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all cases\n")


@pytest.mark.parametrize("values", ["fp32", "bf16"])
def test_the_kernel_compiles_for_a_gpu(values: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To machine code of an H100 or H200; that needs no GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"heads": 8, "levels": 4, "points": 4, "depth": 32, "wide": 32, "block": 32}
    arguments = {"values": f"*{values}", "sizes": "*i32", "locations": "*fp32", "weights": "*fp32"}
    arguments |= {"output": f"*{values}", "tokens": "i32", "queries": "i32"}
    signature = arguments | dict.fromkeys(constants, "constexpr")
    source: Any = ASTSource(fn=deformable_triton.kernel, signature=signature, constexprs=constants)
    assert len(compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]) > 1000


def test_where_it_cannot_run_the_published_function_does(caplog: pytest.LogCaptureFixture) -> None:
    deformable_triton.works.cache_clear()
    random = torch.Generator().manual_seed(2)
    shapes = [(4, 3), (2, 2)]
    values = torch.randn(1, 16, 2, 8, generator=random)
    locations, weights = torch.rand(1, 5, 2, 2, 3, 2, generator=random), torch.rand(1, 5, 2, 2, 3, generator=random)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # Triton has no CPU
            found = deformable_triton.sample(values, shapes, locations, weights)
    assert torch.equal(found, deformable_triton.published(values, shapes, locations, weights))
    (record,) = caplog.records  # said once
    assert "the kernel does not run here" in record.message
    deformable_triton.works.cache_clear()
