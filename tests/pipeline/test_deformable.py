"""Deformable attention by weighted look-ups is the published one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from groundingdino.models.GroundingDINO.ms_deform_attn import (
    MultiScaleDeformableAttention,
    multi_scale_deformable_attn_pytorch,
)
from torch import Tensor

from pipeline.models import deformable, groundingdino_build
from pipeline.models.architectures import detector_architecture
from tests.pipeline.redraw import redraw

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [(6, 8), (3, 4), (1, 2)]
TOKENS = sum(height * width for height, width in SHAPES)


def sampled(locations: Tensor, weights: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Ours, and the published."""
    with torch.inference_mode():
        published = multi_scale_deformable_attn_pytorch(values, torch.tensor(SHAPES), locations, weights)
        return deformable.sample(values, SHAPES, locations, weights), published


def draw(queries: int, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """Locations, weights and values of two images, eight heads, three levels and four points."""
    generator = torch.Generator().manual_seed(queries)
    locations = torch.rand(2, queries, 8, 3, 4, 2, generator=generator) * (high - low) + low
    weights = torch.rand(2, queries, 8, 3, 4, generator=generator)
    return locations, weights, torch.randn(2, TOKENS, 8, 16, generator=generator)


@pytest.mark.parametrize("queries", [1, 7, 100])
@pytest.mark.parametrize("most", [1, 7, 64, 1024])
def test_samples(monkeypatch: pytest.MonkeyPatch, queries: int, most: int) -> None:
    monkeypatch.setattr(deformable, "_QUERIES", most)
    ours, published = sampled(*draw(queries, -0.2, 1.2))
    torch.testing.assert_close(ours, published, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", [-5.0, -0.5, -1e-6, 0.0, 1e-6, 0.5, 1.0, 1.0 + 1e-6, 1.5, 5.0, 1e30])
def test_samples_at_and_beyond_the_border(place: float) -> None:
    locations, weights, values = draw(3, 0, 1)
    for axis in (0, 1):
        there = locations.clone()
        there[..., axis] = place
        ours, published = sampled(there, weights, values)
        torch.testing.assert_close(ours, published, rtol=1e-5, atol=1e-5)


def test_every_pixel_and_every_half_way() -> None:
    """Where the floor decides."""
    height, width = SHAPES[0]
    steps = [
        torch.stack(((x + dx) / width, (y + dy) / height))
        for y in torch.arange(height)
        for x in torch.arange(width)
        for dx, dy in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0))
    ]
    locations = torch.stack(steps)[None, :, None, None, None].expand(2, -1, 8, 3, 4, 2).contiguous()
    _, weights, values = draw(len(steps), 0, 1)
    ours, published = sampled(locations, weights, values)
    torch.testing.assert_close(ours, published, rtol=1e-5, atol=1e-5)


def test_a_location_that_is_no_number_spoils_its_own_query_alone() -> None:
    locations, weights, values = draw(3, 0, 1)
    expected, _ = sampled(locations, weights, values)
    locations[0, 1] = float("nan")
    found, _ = sampled(locations, weights, values)
    assert found[0, 1].isnan().all()
    assert torch.equal(found[0, [0, 2]], expected[0, [0, 2]])
    assert torch.equal(found[1], expected[1])


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(3)
    model = groundingdino_build.build(detector_architecture("groundingdino-tiny"))
    redraw(model, seed=3)
    return model


@pytest.mark.parametrize(
    ("path", "coordinates"), [("encoder.layers.0.self_attn", 2), ("decoder.layers.0.cross_attn", 4)]
)
def test_the_module(model: Any, path: str, coordinates: int) -> None:
    attention = model.get_submodule(f"transformer.{path}")
    assert type(attention) is deformable.DeformableAttention
    generator = torch.Generator().manual_seed(1)
    levels, batch_first = attention.num_levels, attention.batch_first
    shapes = torch.tensor([[6, 8], [3, 4], [2, 2], [1, 1]])[:levels]
    tokens = int(shapes.prod(1).sum())

    def tensor(count: int) -> Tensor:
        values = torch.randn(2, count, attention.embed_dim, generator=generator)
        return values if batch_first else values.transpose(0, 1)

    inputs = {
        "query": tensor(tokens),
        "query_pos": tensor(tokens),
        "value": tensor(tokens),
        "reference_points": torch.rand(2, tokens, levels, coordinates, generator=generator),
        "spatial_shapes": shapes,
        "level_start_index": torch.zeros(levels, dtype=torch.int64),
        "key_padding_mask": torch.rand(2, tokens, generator=generator) < 0.1,
    }
    with torch.inference_mode():
        expected = MultiScaleDeformableAttention.forward(attention, **inputs)
        torch.testing.assert_close(attention(**inputs), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(copy.deepcopy(attention)(**inputs), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(attention(**inputs), MultiScaleDeformableAttention.forward(attention, **inputs))  # for training


def test_every_deformable_attention_is_ours(model: Any) -> None:
    kinds = [type(one) for one in model.modules() if isinstance(one, MultiScaleDeformableAttention)]
    assert kinds
    assert set(kinds) == {deformable.DeformableAttention}
