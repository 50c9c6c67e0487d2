"""What the detector trains on: pictures as the detector resizes them, captions, and what each caption means."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.detector import MEAN, STD
from pipeline.models import groundingdino
from pipeline.models.architectures import DetectorArchitecture
from pipeline.tiny import phrases, scenes

SEPARATORS = frozenset(phrases.TOKEN_IDS[t] for t in ("[CLS]", "[SEP]", ".", "?"))
MAX_TOKENS = 256  # the width to which the official heads pad their logits
NOMINAL = 192 * 192  # a larger padded picture gets a smaller batch, so that memory stays bounded
GROUPS = 4  # a batch is drawn in this many groups, each with a native size of its own


@dataclass(frozen=True, slots=True)
class Known:
    """All that is in the scenes: boxes `BxKx4`, `cxcywh` as shares of the image; shapes, colours, presence `BxK`."""

    boxes: Tensor
    shapes: Tensor
    colours: Tensor
    present: Tensor

    def to(self, device: str) -> Known:
        return Known(*(t.to(device) for t in (self.boxes, self.shapes, self.colours, self.present)))


@dataclass(frozen=True, slots=True)
class Targets:
    """The objects that an image's caption means, the first `counts[b]` rows of G: boxes `BxGx4`, tokens `BxGx256`."""

    boxes: Tensor
    tokens: Tensor
    counts: list[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Resized images `Bx3xHxW` (uint8 as drawn, normalised and padded once on the device) and what they hold."""

    images: Tensor
    padded: tuple[int, int]
    text: groundingdino.TextBatch
    targets: Targets
    known: Known

    def inputs(self, device: str) -> tuple[Tensor, Tensor]:
        """Normalised padded images `Bx3xHxW` and padding `BxHxW`, as `pipeline.detector` makes them."""
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
        x = (self.images.to(device).float() / 255 - mean) / std
        pad = (0, self.padded[1] - x.shape[-1], 0, self.padded[0] - x.shape[-2])
        padding = F.pad(torch.zeros((len(x), *x.shape[-2:]), device=device), pad, value=1.0).bool()
        return F.pad(x, pad), padding


@dataclass(frozen=True, slots=True)
class Draw:
    """The batch of a step, on the CPU: a function of the seed and the step alone."""

    arch: DetectorArchitecture
    batch: int
    shorts: tuple[int, ...]
    seed: int
    device: str

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        g = torch.Generator(device=self.device).manual_seed(self.seed * 1_000_003 + step)
        images, padded, known = pictures(self.arch, self.batch, self.shorts, rng, g)
        text, targets = texts(known, rng)
        return Batch(images, padded, text, targets, known)


def input_size(short: int, long: int, aspect: float) -> tuple[int, int]:
    """`(height, width)` after resizing an image of `aspect` = width / height."""
    short = min(short, round(long / max(aspect, 1 / aspect)))
    return (short, round(short * aspect)) if aspect >= 1 else (round(short / aspect), short)


def pictures(
    arch: DetectorArchitecture, batch: int, shorts: tuple[int, ...], rng: np.random.Generator, g: torch.Generator
) -> tuple[Tensor, tuple[int, int], Known]:
    """Scenes of one input size, resized from their native sizes: uint8 `Bx3xHxW`, the padded size, what they hold."""
    spread = rng.choice(3, p=[0.55, 0.38, 0.07])
    aspect = float(np.exp(rng.uniform(*((0, 0.25), (0.25, math.log(3)), (math.log(3), math.log(6)))[spread])))
    aspect = aspect if rng.random() < 0.5 else 1 / aspect
    short = int(rng.choice(shorts))
    height, width = input_size(short, 4 * short, aspect)
    step = arch.pad_multiple
    padded = math.ceil(height / step) * step, math.ceil(width / step) * step
    group = max(1, min(batch, int(batch * NOMINAL / (padded[0] * padded[1]))) // GROUPS)
    images, known = [], []
    for _ in range(GROUPS):
        scale = float(np.exp(rng.uniform(math.log(200 / short), math.log(2.4))))  # native pixels an input pixel
        native = round(height * scale), round(width * scale)
        many = int(rng.integers(4, scenes.SLOTS + 1)) if rng.random() < 0.65 else None  # crowds teach most
        s = scenes.draw(group, *native, g, held_out=False, objects=many)
        picture = F.interpolate(s.images, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
        images.append(picture.round().byte().cpu())
        corners = s.boxes / torch.tensor([native[1], native[0]] * 2, device=g.device)
        boxes = torch.cat(((corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]), -1)
        known.append(Known(boxes, s.shapes, s.colours, s.present).to("cpu"))
    return (
        torch.cat(images),
        padded,
        Known(
            torch.cat([k.boxes for k in known]),
            torch.cat([k.shapes for k in known]),
            torch.cat([k.colours for k in known]),
            torch.cat([k.present for k in known]),
        ),
    )


def texts(known: Known, rng: np.random.Generator) -> tuple[groundingdino.TextBatch, Targets]:
    """A caption for each scene, and the objects that it means."""
    shapes, colours, present = (t.numpy() for t in (known.shapes, known.colours, known.present))
    ids, counts = [], []
    boxes = torch.zeros((len(shapes), scenes.SLOTS, 4))
    tokens = torch.zeros((len(shapes), scenes.SLOTS, MAX_TOKENS), dtype=torch.bool)
    for b in range(len(shapes)):
        there = np.flatnonzero(present[b])
        classes = phrases.sample(colours[b, there], shapes[b, there], rng)
        caption, spans = phrases.caption(classes)
        positive = np.zeros((len(there), MAX_TOKENS), dtype=bool)
        for one, (start, end) in zip(classes, spans, strict=True):
            positive[one.matches(colours[b, there], shapes[b, there]), start:end] = True
        named = positive.any(1)
        ids.append(caption)
        counts.append(int(named.sum()))
        boxes[b, : counts[b]] = known.boxes[b, there[named]]
        tokens[b, : counts[b]] = torch.from_numpy(positive[named])
    text = groundingdino.text_batch(ids, SEPARATORS, phrases.TOKEN_IDS["[PAD]"])
    return text, Targets(boxes, tokens, counts)
