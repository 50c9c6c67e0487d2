"""Signed distances of the eight shapes, inside a circle of radius 1, vectorised over objects.

Every function takes local coordinates `u, v` of shape `(N, H, W)` and parameters of shape `(N, 1, 1)` in [0, 1], and
returns a distance (positive outside) of shape `(N, H, W)` in units of the radius.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _lerp(low: float, high: float, t: Tensor) -> Tensor:
    return low + (high - low) * t


def _half_planes(u: Tensor, v: Tensor, sides: int, inradius: float) -> Tensor:
    normals = [(math.cos(2 * math.pi * k / sides), math.sin(2 * math.pi * k / sides)) for k in range(sides)]
    distance = normals[0][0] * u + normals[0][1] * v
    for x, y in normals[1:]:
        distance = torch.maximum(distance, x * u + y * v)
    return distance - inradius


def circle(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.hypot(u, v) - 1


def square(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) - math.sqrt(0.5)


def triangle(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    stretched = _lerp(0.92, 1.12, b)  # near-equilateral, as people draw them
    return _half_planes(u, v * stretched, 3, 0.5)


def star(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Five points (now and then six); `a` is the inner radius, 0.34 to 0.56."""
    sector = torch.where(b < 0.9, math.pi / 5, math.pi / 6)
    inner = _lerp(0.34, 0.56, a)
    angle = torch.remainder(torch.atan2(v, u) + sector, 2 * sector) - sector
    radius = torch.hypot(u, v)
    x, y = radius * torch.cos(angle), radius * torch.sin(angle).abs()
    tip_to_inner_x, tip_to_inner_y = inner * torch.cos(sector) - 1, inner * torch.sin(sector)
    length = torch.hypot(tip_to_inner_x, tip_to_inner_y)
    return (tip_to_inner_y * (x - 1) - tip_to_inner_x * y) / length


def ring(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` is the hole's radius, 0.4 to 0.75."""
    inner = _lerp(0.4, 0.75, a)
    return (torch.hypot(u, v) - (1 + inner) / 2).abs() - (1 - inner) / 2


def cross(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Two equal bars; `a` is their half width, 0.15 to 0.36."""
    half = _lerp(0.15, 0.36, a)
    reach = torch.sqrt(1 - half * half)
    upright = torch.maximum(u.abs() - half, v.abs() - reach)
    return torch.minimum(upright, torch.maximum(u.abs() - reach, v.abs() - half))


def hexagon(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return _half_planes(u, v, 6, math.cos(math.pi / 6))


def crescent(u: Tensor, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A disc less a shifted disc: `a` is the cutter's radius, 0.65 to 0.95, `b` its shift, 0.38 to 0.6."""
    cutter, shift = _lerp(0.65, 0.95, a), _lerp(0.38, 0.6, b)
    return torch.maximum(torch.hypot(u, v) - 1, cutter - torch.hypot(u - shift, v))


DISTANCES: dict[str, Distance] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "ring": ring,
    "cross": cross,
    "hexagon": hexagon,
    "crescent": crescent,
}
