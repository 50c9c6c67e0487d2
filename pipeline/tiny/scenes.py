"""Scenes of coloured shapes: what the embedded model is trained and tested on.

A whole batch is drawn at once with torch, on the CPU or a GPU. One to eight objects, each of radius (half its largest
extent) 6 to 21 % of the shorter side, wholly inside the image, at any rotation and at least 60 % visible, flat or
shaded, on a plain or textured background whose mean colour is at least 60 (Euclidean RGB) away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.tiny import backgrounds
from pipeline.tiny.shapes import DISTANCES

SHAPES: tuple[str, ...] = tuple(DISTANCES)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 35),
    "orange": (245, 140, 25),
    "yellow": (245, 220, 35),
    "green": (40, 160, 60),
    "blue": (30, 80, 210),
    "purple": (135, 50, 175),
    "white": (245, 245, 245),
    "black": (18, 18, 18),
}
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
HELD_OUT: tuple[tuple[str, str], ...] = (
    ("red", "hexagon"),
    ("orange", "ring"),
    ("yellow", "cross"),
    ("green", "star"),
    ("blue", "crescent"),
    ("purple", "square"),
    ("white", "triangle"),
    ("black", "circle"),
)
"""Combinations that training never draws and never names: one of each colour and of each shape."""

SLOTS = 8
MIN_VISIBLE = 0.6
_PLACEMENT = 64  # side of the coarse grid on which visibility is checked


@dataclass(slots=True)
class Scenes:
    """A batch of scenes, K = 8 slots each.

    Attributes:
        images: `Bx3xHxW` float32, 0..255.
        masks: `BxKxHxW` bool, visible parts.
        boxes: `BxKx4` float32 xyxy pixels around the visible parts.
        shapes, colours: `BxK` int64 indices into SHAPES and COLOUR_NAMES.
        present: `BxK` bool.
    """

    images: Tensor
    masks: Tensor
    boxes: Tensor
    shapes: Tensor
    colours: Tensor
    present: Tensor


def _allowed(held_out: bool | None, device: torch.device) -> Tensor:
    """`8x8` weights over (colour, shape): all (None), all but the held-out ones (False), or only those (True)."""
    weights = torch.ones((len(COLOURS), len(SHAPES)), device=device)
    if held_out is None:
        return weights
    mask = torch.zeros_like(weights)
    for colour, shape in HELD_OUT:
        mask[COLOUR_NAMES.index(colour), SHAPES.index(shape)] = 1
    return mask if held_out else weights - mask


@dataclass(slots=True)
class _Objects:
    """Everything about the objects but their colour, `BxK` each; lengths in shorter sides."""

    shape: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    angle: Tensor
    a: Tensor
    b: Tensor


def _coverage(objects: _Objects, height: int, width: int, units: float, soft: bool) -> Tensor:
    """`BxKxHxW` share of each pixel that each object covers; `units` is pixels a shorter side."""
    batch, slots = objects.shape.shape
    device = objects.x.device
    flat_shape = objects.shape.flatten()
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5).view(1, -1, 1)
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5).view(1, 1, -1)

    def column(values: Tensor, index: Tensor) -> Tensor:
        return values.flatten()[index].view(-1, 1, 1)

    out = torch.zeros((batch * slots, height, width), device=device)
    for number, name in enumerate(SHAPES):
        index = (flat_shape == number).nonzero().flatten()
        if len(index) == 0:
            continue
        radius = column(objects.radius, index) * units
        dx = (x - column(objects.x, index) * units) / radius
        dy = (y - column(objects.y, index) * units) / radius
        sin, cos = torch.sin(column(objects.angle, index)), torch.cos(column(objects.angle, index))
        distance = DISTANCES[name](
            dx * cos + dy * sin, dy * cos - dx * sin, column(objects.a, index), column(objects.b, index)
        )
        out[index] = (0.5 - distance * radius).clamp(0, 1)
    return out.view(batch, slots, height, width) if soft else out.view(batch, slots, height, width).round()


def _place(count: Tensor, aspect: tuple[float, float], shape: Tensor, g: torch.Generator) -> tuple[_Objects, Tensor]:
    """Objects in drawing order, and which of them are kept so that all stay at least 60 % visible."""
    batch = len(count)
    device = g.device

    def rand(*size: int) -> Tensor:
        return torch.rand(size, generator=g, device=device)

    # Wider than 6..21 %: the radius here is that of the circumscribed circle, which others may measure differently.
    radius = 0.058 + 0.166 * rand(batch, SLOTS)
    radius = torch.where(rand(batch, SLOTS) < 0.1, 0.2 + 0.1 * rand(batch, SLOTS), radius)
    objects = _Objects(
        shape,
        radius + rand(batch, SLOTS) * (aspect[1] - 2 * radius),
        radius + rand(batch, SLOTS) * (aspect[0] - 2 * radius),
        radius,
        rand(batch, SLOTS) * 2 * math.pi,
        rand(batch, SLOTS),
        rand(batch, SLOTS),
    )
    height, width = round(_PLACEMENT * aspect[0]), round(_PLACEMENT * aspect[1])
    coverage = _coverage(objects, height, width, _PLACEMENT, soft=True)
    area = coverage.sum((2, 3)).clamp(min=1e-3)
    kept = torch.zeros((batch, SLOTS), dtype=torch.bool, device=device)
    visible = torch.zeros_like(coverage)
    for slot in range(SLOTS):
        after = visible * (1 - coverage[:, slot, None])
        share = after.sum((2, 3)) / area
        fits = ((share >= MIN_VISIBLE + 0.03) | ~kept).all(1) & (kept.sum(1) < count)
        visible = torch.where(fits[:, None, None, None], after, visible)
        visible[:, slot] = coverage[:, slot] * fits[:, None, None]
        kept[:, slot] = fits
    return objects, kept


def _paint(mean: Tensor, colour: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """`BxKx3` colours within 30 a channel of their reference, and which are far enough from the mean background."""
    reference = torch.tensor(list(COLOURS.values()), device=g.device, dtype=torch.float32)[colour]
    jitter = torch.rand((6, *reference.shape), generator=g, device=g.device) * 60 - 30
    tries = (reference + jitter).clamp(0, 255)
    far = (tries - mean[:, None]).norm(dim=-1) >= 60
    first = far.int().argmax(0)
    return torch.gather(tries, 0, first[None, ..., None].expand(1, -1, -1, 3))[0], far.any(0)


def _shading(objects: _Objects, height: int, width: int, units: float, g: torch.Generator) -> Tensor:
    """`BxKxHxW` brightness factors around 1: flat, a gradient, or a highlight."""
    batch = len(objects.x)
    kind = torch.randint(0, 4, (batch, SLOTS, 1, 1), generator=g, device=g.device)
    angle = torch.rand((batch, SLOTS, 1, 1), generator=g, device=g.device) * 2 * math.pi
    strength = torch.rand((batch, SLOTS, 1, 1), generator=g, device=g.device) * 0.25
    y = (torch.arange(height, device=g.device) + 0.5).view(1, 1, -1, 1)
    x = (torch.arange(width, device=g.device) + 0.5).view(1, 1, 1, -1)
    size = objects.radius[..., None, None] * units
    dx, dy = (x - objects.x[..., None, None] * units) / size, (y - objects.y[..., None, None] * units) / size
    gradient = dx * torch.cos(angle) + dy * torch.sin(angle)
    highlight = 1 - 2 * torch.hypot(dx - 0.3 * torch.cos(angle), dy - 0.3 * torch.sin(angle)).clamp(max=1)
    shade = torch.where(kind == 2, gradient.clamp(-1, 1), torch.where(kind == 3, highlight, 0.0))
    return 1 + strength * shade


def draw(
    batch: int, height: int, width: int, g: torch.Generator, *, held_out: bool | None = None, objects: int | None = None
) -> Scenes:
    """Draws scenes of `height x width` pixels on the generator's device.

    Args:
        held_out: True draws at least the first object from HELD_OUT, False never does, None does not care.
        objects: how many objects are tried for; random 1 to 8 where None.
    """
    device = g.device
    units = float(min(height, width))
    images = backgrounds.draw(batch, height, width, g)
    count = torch.randint(1, SLOTS + 1, (batch,), generator=g, device=device)
    if objects is not None:
        count = torch.full_like(count, objects)
    colour, shape = _kinds(batch, held_out, g)
    placed, present = _place(count, (height / units, width / units), shape, g)
    rgb, far = _paint(images.mean((2, 3)), colour, g)
    present &= far
    soft = torch.rand((batch, 1, 1, 1), generator=g, device=device) < 0.75
    coverage = _coverage(placed, height, width, units, soft=True)
    coverage = torch.where(soft, coverage, coverage.round()) * present[..., None, None]
    shading = _shading(placed, height, width, units, g)
    masks = torch.zeros((batch, SLOTS, height, width), dtype=torch.bool, device=device)
    for slot in range(SLOTS):
        alpha = coverage[:, slot, None]
        paint = (rgb[:, slot, :, None, None] * shading[:, slot, None]).clamp(0, 255)
        images = images + (paint - images) * alpha
        covered = coverage[:, slot] >= 0.5
        masks &= ~covered[:, None]
        masks[:, slot] = covered
    images = _camera(images, g)
    present &= masks.any(-1).any(-1)
    return Scenes(images, masks, boxes_of(masks), shape, colour, present)


def _kinds(batch: int, held_out: bool | None, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """`BxK` colours and shapes; a third of the objects share colour or shape with the one before."""
    allowed = _allowed(False if held_out is False else None, g.device).flatten()
    pair = torch.multinomial(allowed, batch * SLOTS, replacement=True, generator=g).view(batch, SLOTS)
    if held_out:
        only = _allowed(True, g.device).flatten()
        pair[:, 0] = torch.multinomial(only, batch, replacement=True, generator=g)
    colour, shape = pair // len(SHAPES), pair % len(SHAPES)
    share = torch.rand((batch, SLOTS), generator=g, device=g.device)
    for slot in range(1, SLOTS):
        same_colour = torch.where(share[:, slot] < 0.18, colour[:, slot - 1], colour[:, slot])
        same_shape = torch.where(share[:, slot] > 0.82, shape[:, slot - 1], shape[:, slot])
        fine = allowed.view(len(COLOURS), -1)[same_colour, same_shape] > 0
        colour[:, slot] = torch.where(fine, same_colour, colour[:, slot])
        shape[:, slot] = torch.where(fine, same_shape, shape[:, slot])
    return colour, shape


def _camera(images: Tensor, g: torch.Generator) -> Tensor:
    """Sensor noise on most images and a slight blur on some."""
    batch = len(images)
    sigma = torch.rand((batch, 1, 1, 1), generator=g, device=g.device) * 10 - 2
    blur = torch.rand((batch, 1, 1, 1), generator=g, device=g.device) < 0.2
    smooth = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = torch.where(blur, smooth, images)
    noise = torch.randn(images.shape, generator=g, device=g.device)
    return (images + noise * sigma.clamp(min=0)).clamp(0, 255)


def boxes_of(masks: Tensor) -> Tensor:
    """`...x4` float32 xyxy around boolean masks `...xHxW`; zeros where a mask is empty."""
    rows, columns = masks.any(-1), masks.any(-2)
    height, width = masks.shape[-2:]
    y0, y1 = rows.int().argmax(-1), height - rows.flip(-1).int().argmax(-1)
    x0, x1 = columns.int().argmax(-1), width - columns.flip(-1).int().argmax(-1)
    boxes = torch.stack((x0, y0, x1, y1), -1).float()
    return boxes * rows.any(-1, keepdim=True)
