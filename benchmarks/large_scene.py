"""Scenes of any size with as many objects as wanted, drawn as `pipeline.tiny.scenes` draws its own.

The same shapes, colours, shading and least visibility; but each object is drawn in its own window, so that a scene of
12 megapixels and 200 objects takes a second. Objects keep their size in pixels wherever they are placed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.masks import BoolArray
from pipeline.stages import Float32Array, UInt8Array
from pipeline.tiny import backgrounds, scenes
from pipeline.tiny.shapes import DISTANCES
from pipeline.windows import Window

_TRIES = 400  # places tried for one object


@dataclass(frozen=True, slots=True)
class Thing:
    """One object, wherever it is placed: `radius` in pixels, `rgb` 0..255, `shade` as in `pipeline.tiny.scenes`."""

    colour: int
    shape: int
    rgb: Float32Array
    radius: float
    angle: float
    a: float
    b: float
    shade: tuple[int, float, float]

    @property
    def label(self) -> str:
        return f"{scenes.COLOUR_NAMES[self.colour]} {scenes.SHAPES[self.shape]}"


@dataclass(frozen=True, slots=True)
class Scene:
    """`image` is `HxWx3` uint8; `masks` are the visible parts of `things`, one each."""

    image: UInt8Array
    things: tuple[Thing, ...]
    masks: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Style:
    """What the scenes of one series share: a square of background, its noise, and the classes of their objects."""

    background: Float32Array
    noise: float
    classes: tuple[tuple[int, int], ...]

    @property
    def labels(self) -> list[str]:
        return [f"{scenes.COLOUR_NAMES[colour]} {scenes.SHAPES[shape]}" for colour, shape in self.classes]


def style(rng: np.random.Generator, side: int, classes: int) -> Style:
    """A background whose texture is that of training scenes of `side` pixels, and colours that stand out from it."""
    g = torch.Generator().manual_seed(int(rng.integers(2**31)))
    square = backgrounds.draw(1, side, side, g)[0].permute(1, 2, 0).numpy()
    mean = square.mean((0, 1))
    held_out = {(scenes.COLOUR_NAMES.index(c), scenes.SHAPES.index(s)) for c, s in scenes.HELD_OUT}
    far = [i for i, rgb in enumerate(scenes.COLOURS.values()) if np.linalg.norm(np.array(rgb) - mean) > 112]
    kinds = [(c, s) for c in far for s in range(len(scenes.SHAPES)) if (c, s) not in held_out]
    chosen = rng.choice(len(kinds), classes, replace=False)
    return Style(square, max(0.0, float(rng.uniform(-2, 8))), tuple(kinds[i] for i in chosen))


def things(rng: np.random.Generator, style: Style, count: int, side: int) -> list[Thing]:
    """Objects of the style's classes, as large in pixels as those of a training scene of `side` pixels."""
    made = []
    for _ in range(count):
        colour, shape = style.classes[rng.integers(len(style.classes))]
        radius = rng.uniform(0.2, 0.3) if rng.random() < 0.1 else rng.uniform(0.058, 0.224)
        reference = np.array(list(scenes.COLOURS.values())[colour], np.float32)
        made.append(
            Thing(
                colour,
                shape,
                (reference + rng.uniform(-30, 30, 3)).clip(0, 255).astype(np.float32),
                radius * side,
                rng.uniform(0, 2 * math.pi),
                rng.random(),
                rng.random(),
                (int(rng.integers(4)), rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.25)),
            )
        )
    return made


def draw(rng: np.random.Generator, style: Style, objects: Sequence[Thing], height: int, width: int) -> Scene:
    """Objects at random places, wholly inside, each at least 60 % visible; one that finds no place is left out."""
    image = _background(rng, style.background, height, width)
    owner = np.full((height, width), -1, np.int32)
    visible: list[int] = []
    areas: list[int] = []
    placed: list[Thing] = []
    corners: list[tuple[int, int]] = []
    for thing in objects:
        coverage, paint = _render(thing)
        inside = coverage >= 0.5
        h, w = inside.shape
        for _ in range(_TRIES):
            y, x = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
            hidden = np.bincount(owner[y : y + h, x : x + w][inside] + 1, minlength=len(placed) + 1)[1:]
            if all(visible[i] - hidden[i] >= scenes.MIN_VISIBLE * areas[i] for i in np.flatnonzero(hidden)):
                break
        else:
            continue
        for i in np.flatnonzero(hidden):
            visible[i] -= int(hidden[i])
        areas.append(int(inside.sum()))
        visible.append(areas[-1])
        part = image[y : y + h, x : x + w]
        part += (paint - part) * coverage[..., None]
        owner[y : y + h, x : x + w][inside] = len(placed)
        placed.append(thing)
        corners.append((y, x))
    image += rng.standard_normal(image.shape, np.float32) * np.float32(style.noise)
    masks = tuple(_seen(owner, i, thing, corner) for i, (thing, corner) in enumerate(zip(placed, corners, strict=True)))
    return Scene(image.round().clip(0, 255).astype(np.uint8), tuple(placed), masks)


def _background(rng: np.random.Generator, square: Float32Array, height: int, width: int) -> Float32Array:
    """The square mirrored at its edges over and over, from a random place on: texture and contrast stay the same."""
    side = len(square)
    top, left = rng.integers(0, 2 * side, 2)
    mirrored = np.concatenate((np.arange(side), np.arange(side)[::-1]))
    rows, columns = mirrored[(top + np.arange(height)) % (2 * side)], mirrored[(left + np.arange(width)) % (2 * side)]
    picture: Float32Array = square[rows][:, columns].copy()
    return picture


def _render(thing: Thing) -> tuple[Float32Array, Float32Array]:
    """`hxw` coverage and `hxwx3` paint in the smallest window around the object's circle."""
    side = math.ceil(2 * thing.radius) + 2
    line = (np.arange(side, dtype=np.float32) + 0.5 - side / 2) / thing.radius
    dy, dx = np.meshgrid(line, line, indexing="ij")
    sin, cos = math.sin(thing.angle), math.cos(thing.angle)
    u, v = (torch.from_numpy(t.astype(np.float32))[None] for t in (dx * cos + dy * sin, dy * cos - dx * sin))
    a, b = torch.full((1, 1, 1), thing.a), torch.full((1, 1, 1), thing.b)
    distance = DISTANCES[scenes.SHAPES[thing.shape]](u, v, a, b)[0].numpy()
    coverage = (0.5 - distance * thing.radius).clip(0, 1)
    kind, angle, strength = thing.shade
    shade = np.zeros_like(dx)
    if kind == 2:
        shade = (dx * math.cos(angle) + dy * math.sin(angle)).clip(-1, 1)
    elif kind == 3:
        shade = 1 - 2 * np.hypot(dx - 0.3 * math.cos(angle), dy - 0.3 * math.sin(angle)).clip(max=1)
    paint = (thing.rgb * (1 + strength * shade)[..., None]).clip(0, 255)
    return coverage.astype(np.float32), paint.astype(np.float32)


def _seen(owner: npt.NDArray[np.int32], number: int, thing: Thing, corner: tuple[int, int]) -> Window:
    side, (y, x) = math.ceil(2 * thing.radius) + 2, corner
    mask: BoolArray = owner[y : y + side, x : x + side] == number
    return mask, corner
