"""Lower precision, layer by layer: each layer computes in the type of its own weights.

Linear layers and convolutions, nearly all of the work, take bfloat16 or float16; norms, what is added up along a model
and everything without such a layer stay float32, as adding float32 to a lower type gives float32. So float16 does not
overflow where a published model's sums do (SAM ViT-H), and what a model needs exact it names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from pipeline.models import onednn

Precision = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class _Linear(onednn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name of its base
        return super().forward(input.to(self.weight.dtype))


class _Conv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input.to(self.weight.dtype))


class _ConvTranspose2d(nn.ConvTranspose2d):
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002
        return super().forward(input.to(self.weight.dtype), output_size)


class _LayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input.to(self.weight.dtype))


class _GroupNorm(nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input.to(self.weight.dtype))


class _LayerNorm2d(LayerNorm2d):  # type: ignore[misc]  # its base has no types
    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = super().forward(x.to(self.weight.dtype))
        return normed


_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: _Linear,
    onednn.Linear: _Linear,
    nn.Conv2d: _Conv2d,
    nn.ConvTranspose2d: _ConvTranspose2d,
    nn.LayerNorm: _LayerNorm,
    nn.GroupNorm: _GroupNorm,
    LayerNorm2d: _LayerNorm2d,
}
_NORMS = (nn.LayerNorm, nn.GroupNorm, LayerNorm2d)


def lower(model: nn.Module, dtype: torch.dtype, wanted: Callable[[str], bool] = lambda _: True) -> None:
    """Gives linear layers and convolutions the type `dtype`, in place; float32 changes nothing.

    Args:
        model: names of its parameters stay; norms stay float32, and take any input.
        wanted: of a layer's name within `model`; the others keep float32, and take any input too.
    """
    if dtype == torch.float32:
        return
    for name, module in model.named_modules():
        kind = _LAYERS.get(type(module))
        if kind is None:
            continue
        module.__class__ = kind
        if not isinstance(module, _NORMS) and wanted(name):
            module.to(dtype)
