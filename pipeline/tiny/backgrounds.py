"""Plain and textured backgrounds, a batch at a time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Kind = int
KINDS = 9


def _noise(batch: int, height: int, width: int, cell: int, g: torch.Generator) -> Tensor:
    """`Bx1xHxW` smooth noise in [-1, 1] with features of about `cell` pixels."""
    grid = torch.rand((batch, 1, max(2, height // cell), max(2, width // cell)), generator=g, device=g.device)
    return F.interpolate(grid * 2 - 1, size=(height, width), mode="bilinear", align_corners=True)


def _pattern(kind: Kind, batch: int, x: Tensor, y: Tensor, short: int, g: torch.Generator) -> Tensor:
    """`Bx1xHxW` in [-1, 1]; `x` is `1x1x1xW`, `y` is `1x1xHx1`, in pixels."""
    height, width = y.shape[-2], x.shape[-1]

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((batch, 1, 1, 1), generator=g, device=g.device)

    angle = uniform(0, 2 * math.pi)
    u = x * torch.cos(angle) + y * torch.sin(angle)
    v = y * torch.cos(angle) - x * torch.sin(angle)
    period = uniform(0.04, 0.3) * short
    if kind == 1:  # linear gradient
        u = u - u.amin((2, 3), keepdim=True)
        return u / u.amax((2, 3), keepdim=True) * 2 - 1
    if kind == 2:  # radial gradient
        radius = torch.hypot(x - uniform(0, 1) * width, y - uniform(0, 1) * height)
        return radius / radius.amax((2, 3), keepdim=True) * 2 - 1
    if kind == 3:  # blobs
        return _noise(batch, height, width, max(2, short // 4), g)
    if kind == 4:  # stripes, sharp or soft
        return torch.clamp(torch.sin(2 * math.pi * u / period) * uniform(1, 8), -1, 1)
    if kind == 5:  # checkers
        return torch.sign(torch.sin(2 * math.pi * u / period) * torch.sin(2 * math.pi * v / period))
    if kind == 6:  # noise of several octaves
        octaves = [_noise(batch, height, width, max(1, short // d), g) / i for i, d in enumerate((3, 8, 20, 60), 1)]
        return torch.clamp(torch.stack(octaves).sum(0), -1, 1)
    if kind == 7:  # dots
        distance = torch.hypot(torch.remainder(u, period) - period / 2, torch.remainder(v, period) - period / 2)
        return torch.where(distance < period * uniform(0.12, 0.35), 1.0, -1.0)
    if kind == 8:  # grain
        return torch.rand((batch, 1, height, width), generator=g, device=g.device) * 2 - 1
    return torch.zeros((batch, 1, height, width), device=g.device)


def draw(batch: int, height: int, width: int, g: torch.Generator) -> Tensor:
    """`Bx3xHxW` float32 in 0..255 on the generator's device."""
    device = g.device
    y = torch.arange(height, device=device, dtype=torch.float32).view(1, 1, -1, 1)
    x = torch.arange(width, device=device, dtype=torch.float32).view(1, 1, 1, -1)
    base = torch.rand((batch, 3, 1, 1), generator=g, device=device) * 255
    grey = base.mean(1, keepdim=True)
    base = torch.lerp(base, grey.expand_as(base), torch.rand((batch, 1, 1, 1), generator=g, device=device))
    other = torch.rand((batch, 3, 1, 1), generator=g, device=device) * 255
    reach = torch.rand((batch, 1, 1, 1), generator=g, device=device) ** 1.5  # mostly gentle, sometimes strong
    kinds = sorted(torch.randint(-2, KINDS, (batch,), generator=g, device=device).clamp(min=0).tolist())
    pattern = torch.cat([_pattern(kind, kinds.count(kind), x, y, min(height, width), g) for kind in sorted(set(kinds))])
    picture = base + (other - base) * reach * (pattern + 1) / 2
    return picture.clamp(0, 255)
