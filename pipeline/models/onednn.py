"""Linear layers by oneDNN, in float32. PyTorch gives them to MKL, half as fast on AMD's processors.

Same arithmetic, another order of summation: differences are those between any two matrix libraries.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MIN_PRODUCTS = 2**20  # multiplications below which the detour costs more than it saves


def _operator_of_torch() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


AVAILABLE = _operator_of_torch()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`: `...xK` float32 by `NxK` -> `...xN`.

    Takes the usual way on a GPU, in another precision, where a gradient is wanted, for small products, and in what
    `torch.compile` makes, which does not know this operator.
    """
    rows = x.numel() // max(1, x.shape[-1])
    if (
        not AVAILABLE
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or x.device.type != "cpu"
        or x.dtype != torch.float32
        or weight.dtype != torch.float32
        or rows * weight.numel() < _MIN_PRODUCTS
        or (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    ):
        return F.linear(x, weight, bias)
    # Flat and contiguous both: of another layout it makes a loop of its own, a hundred times as slow.
    flat = x.reshape(rows, x.shape[-1]).contiguous()
    product: Tensor = torch.ops.mkldnn._linear_pointwise(flat, weight.contiguous(), bias, "none", [], "")
    return product.view(*x.shape[:-1], weight.shape[0])


def products(x: Tensor, weights: Tensor) -> Tensor:
    """`x @ weights^T`, `BxMxK` by `BxNxK` -> `BxMxN`; a single one by `linear`."""
    return linear(x[0], weights[0])[None] if len(x) == 1 else x @ weights.transpose(-2, -1)


class Linear(nn.Linear):
    """`nn.Linear` with its parameters, computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name of its base
        return linear(input, self.weight, self.bias)


def install(model: nn.Module) -> None:
    """Makes every plain `nn.Linear` of `model` one of the above; state dict and hooks stay as they are."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear
