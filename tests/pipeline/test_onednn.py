"""Linear layers by oneDNN are linear layers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from pipeline.models import onednn

pytestmark = pytest.mark.usefixtures("one_thread")
needs_onednn = pytest.mark.skipif(not onednn.AVAILABLE, reason="this torch has no oneDNN")


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def operators(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as run:
        onednn.linear(x, weight, bias)
    return {event.key for event in run.key_averages()}


OURS = "mkldnn::_linear_pointwise"


@pytest.mark.parametrize("shape", [(64, 256), (3, 50, 256), (2, 7, 7, 256), (1, 2, 3, 20, 256), (4, 256), (0, 256)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_products(shape: tuple[int, ...], with_bias: bool) -> None:
    x, weight, bias = draw(*shape), draw(128, 256), draw(128) if with_bias else None
    with torch.inference_mode():
        found = onednn.linear(x, weight, bias)
        truth = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    assert found.shape == (*shape[:-1], 128)
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-4)


def test_whatever_lies_in_memory_how() -> None:
    whole, weight = draw(3, 256, 80), draw(256, 128)
    with torch.inference_mode():
        for x in (whole.transpose(1, 2), whole.transpose(1, 2)[:, ::2], whole.permute(2, 0, 1)):
            torch.testing.assert_close(
                onednn.linear(x, weight.t()), F.linear(x.contiguous(), weight.t().contiguous()), rtol=1e-5, atol=1e-4
            )


@needs_onednn
def test_when_it_is_taken() -> None:
    x, weight, bias = draw(256, 256), draw(256, 256), draw(256)
    with torch.inference_mode():
        assert OURS in operators(x, weight, bias)
        assert OURS not in operators(x[:2], weight, bias)  # too little to gain
        assert OURS not in operators(x.double(), weight.double(), bias.double())
    with torch.no_grad():
        assert OURS in operators(x, weight.requires_grad_(), bias)
    assert OURS not in operators(x, weight, bias)  # a gradient is wanted
    weight.grad = None
    onednn.linear(x, weight, bias).sum().backward()
    assert weight.grad is not None


def test_install_changes_plain_layers_and_nothing_else() -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.MultiheadAttention(256, 4), nn.Linear(256, 8))
    before = copy.deepcopy(model)
    onednn.install(model)
    assert [type(model[0]), type(model[2])] == [onednn.Linear, onednn.Linear]
    inner = model[1].out_proj  # torch's own attention looks at this layer's parameters, not at its forward pass
    assert type(inner) is type(before[1].out_proj)
    assert list(model.state_dict()) == list(before.state_dict())
    x = draw(64, 256)
    with torch.inference_mode():
        torch.testing.assert_close(model[0](x), before[0](x), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(copy.deepcopy(model)[0](x), before[0](x), rtol=1e-5, atol=1e-4)
