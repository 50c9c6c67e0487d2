"""Random weights that leave no tensor constant.

Official initialisation leaves many tensors at 0, at 1, or nearly off: position tables, deformable offsets and weights,
the last box layer, fusion gammas of 1e-4, every bias and norm. With those, a forward pass that forgot half of them
would still agree with the official one. So each is drawn anew, about as large as training makes it.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

# The first pattern found in a constant tensor's name gives `(mean, deviation)` of a normal draw.
_RULES: tuple[tuple[str, float, float], ...] = (
    (r"pos_embed$|rel_pos_[hw]$", 0.0, 0.02),
    (r"sampling_offsets\.weight$", 0.0, 0.05),
    (r"attention_weights\.weight$", 0.0, 0.05),
    (r"bbox_embed.*\.layers\.2\.", 0.0, 0.05),
    (r"bias$", 0.0, 0.05),
    (r"weight$", 1.0, 0.1),  # of a norm
)
# What enters the dot products of the class scores: kept small, so that scores do not all end at 0 or 1.
_LAST_TEXT_NORM = re.compile(r"text_layers\.\d+\.norm2\.weight$")


def constant_tensors(model: nn.Module) -> list[str]:
    """Names of the floating tensors, buffers included, that hold one value throughout."""
    return [
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all())
    ]


@torch.no_grad()
def redraw(model: nn.Module, seed: int) -> None:
    """Draws every constant tensor of an official model from a seeded normal, in place; fusion gammas from 0.1 to 1.

    Raises:
        LookupError: a constant tensor for which there is no rule.
    """
    random = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    drawn: set[int] = set()
    for name in constant_tensors(model):
        tensor = state[name]
        if tensor.data_ptr() not in drawn:  # the box heads of all layers are one
            drawn.add(tensor.data_ptr())
            tensor.copy_(_draw(name, tensor.shape, random))
    last = max((name for name in state if _LAST_TEXT_NORM.search(name)), default=None)
    if last is not None:
        state[last].normal_(0.0, 0.1, generator=random)


def _draw(name: str, shape: torch.Size, random: torch.Generator) -> Tensor:
    if re.search(r"gamma_[vl]$", name):
        return torch.empty(shape).uniform_(0.1, 1.0, generator=random)
    for pattern, mean, deviation in _RULES:
        if re.search(pattern, name):
            return torch.empty(shape).normal_(mean, deviation, generator=random)
    raise LookupError(name)
