"""Deformable attention a few queries at a time is the published one."""

from __future__ import annotations

import copy

import pytest
import torch

from pipeline.models import groundingdino_build
from pipeline.models.architectures import detector_architecture
from tests.pipeline.redraw import redraw


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("most", [2, 7, 64, 8192])
def test_turns_change_nothing(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    torch.manual_seed(3)
    model = groundingdino_build.build(detector_architecture("groundingdino-tiny"))
    redraw(model, seed=3)
    attention = model.get_submodule("transformer.encoder.layers.0.self_attn")
    shapes = torch.tensor([[6, 8], [3, 4], [2, 2]])
    tokens = int(shapes.prod(1).sum())
    inputs = {
        "query": torch.randn(2, tokens, 256),
        "value": torch.randn(2, tokens, 256),
        "reference_points": torch.rand(2, tokens, 3, 2),
        "spatial_shapes": shapes,
        "level_start_index": torch.tensor([0, 48, 60]),
        "key_padding_mask": torch.rand(2, tokens) < 0.1,
    }
    monkeypatch.setattr(groundingdino_build, "_MAX_QUERIES", most)
    with torch.inference_mode():
        expected = type(attention).forward(attention, **inputs)
        torch.testing.assert_close(attention(**inputs), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(copy.deepcopy(attention)(**inputs), expected, rtol=1e-5, atol=1e-6)
