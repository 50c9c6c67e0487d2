"""Trains the embedded SAM from scratch: `python -m pipeline.tiny.train_segmenter --out DIR`.

Scenes are drawn on the fly, on the training device. Prompts are boxes, points, both, and the answer of a first pass
with a correcting point. Resumable: a run continues from DIR/state.pt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.image_encoder import MEAN, STD
from pipeline.models import sam as sam_model
from pipeline.models import sam_decoder
from pipeline.models.architectures import segmenter_architecture
from pipeline.tiny import scenes, training

GROUPS = 4  # a batch is drawn in this many groups, each with a size of its own
KINDS = ("box", "point", "both")


def picture_batch(
    side: int, batch: int, prompts: int, rng: np.random.Generator, g: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalised padded images `Bx3xNxN`, and for each prompt its image `(P,)`, box `Px4` and soft mask `PxNxN`.

    Images are float16, masks uint8, to travel light.
    """
    mean, std = (torch.tensor(v, device=g.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    images, index, boxes, masks = [], [], [], []
    for group in range(GROUPS):
        aspect = float(np.exp(rng.uniform(0, math.log(3.2)) if rng.random() < 0.9 else rng.uniform(1.1, math.log(6))))
        long = int(np.exp(rng.uniform(math.log(max(200, min(560, 200 * aspect))), math.log(580))))
        native = (max(round(long / aspect), 90), long)
        size = (max(1, round(side * native[0] / native[1])), side)
        if rng.random() < 0.5:
            native, size = native[::-1], size[::-1]
        s = scenes.draw(
            batch // GROUPS, *native, g, objects=int(rng.integers(4, scenes.SLOTS + 1))
        )  # crowds teach most
        picture = F.interpolate(s.images, size=size, mode="bilinear", antialias=True, align_corners=False)
        pad = (0, side - size[1], 0, side - size[0])
        images.append(F.pad((picture.round() - mean) / std, pad).half())
        chance = torch.rand(s.present.shape, generator=g, device=g.device) * s.present
        value, slot = chance.topk(prompts, dim=1)
        image, column = (value > 0).nonzero(as_tuple=True)
        picked = slot[image, column]
        index.append(image + group * (batch // GROUPS))
        scale = torch.tensor([size[1] / native[1], size[0] / native[0]] * 2, device=g.device)
        boxes.append(s.boxes[image, picked] * scale)
        soft = F.interpolate(
            s.masks[image, picked][:, None].float(), size=size, mode="bilinear", antialias=True, align_corners=False
        )
        masks.append(F.pad(soft[:, 0] * 255, pad).byte())
    return torch.cat(images), torch.cat(index), torch.cat(boxes), torch.cat(masks)


@dataclass(frozen=True, slots=True)
class Draw:
    """The batch of a step, as `picture_batch` returns it, on the CPU."""

    side: int
    batch: int
    prompts: int
    seed: int
    device: str

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        rng = np.random.default_rng([self.seed, step])
        g = torch.Generator(device=self.device).manual_seed(self.seed * 1_000_003 + step)
        return tuple(t.cpu() for t in picture_batch(self.side, self.batch, self.prompts, rng, g))


def _points(wanted: Tensor, g: torch.Generator) -> Tensor:
    """One random pixel `(x, y)` of each boolean mask `PxNxN`: `Px2` float32."""
    noise = torch.rand(wanted.shape, generator=g, device=g.device) * wanted
    flat = noise.flatten(1).argmax(1)
    width = wanted.shape[-1]
    return torch.stack((flat % width, flat // width), -1).float()


def prompt(sam: Any, boxes: Tensor, masks: Tensor, kind: int, g: torch.Generator) -> tuple[Any, Tensor | None]:
    """Points (coordinates, labels) or None, and jittered boxes or None; `kind` is an index into KINDS."""
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    amount = torch.rand((len(boxes), 1), generator=g, device=g.device) * 0.08
    jittered = boxes + (torch.rand(boxes.shape, generator=g, device=g.device) * 2 - 1) * amount * size
    inside = masks > 0.5
    coordinates, labels = [_points(inside, g)], [torch.ones(len(boxes), device=g.device)]
    if kind == 1 and torch.rand((), generator=g, device=g.device) < 0.5:
        near = F.max_pool2d(inside[:, None].float(), 31, stride=1, padding=15)[:, 0] > 0
        coordinates += [_points(inside, g), _points(near & ~inside, g)]
        labels += [torch.ones(len(boxes), device=g.device), torch.zeros(len(boxes), device=g.device)]
    points = None if kind == 0 else (torch.stack(coordinates, 1), torch.stack(labels, 1))
    return points, None if kind == 1 else jittered


def mask_loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Losses `PxM` (20 x focal + dice, SAM section A) and the true IoU `PxM` of logits `PxMxNxN` and masks `PxNxN`."""
    wanted = target[:, None].expand_as(logits)
    p = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    focal = ((p - wanted).abs() ** 2 * cross_entropy).mean((2, 3))
    # a plain cross-entropy near the object sharpens the boundary of small ones, which the image mean forgets
    near = F.max_pool2d(wanted[:, :1], 9, stride=1, padding=4).expand_as(logits)
    local = (cross_entropy * near).sum((2, 3)) / near.sum((2, 3)).clamp(min=1)
    dice = 1 - (2 * (p * wanted).sum((2, 3)) + 1) / (p.sum((2, 3)) + wanted.sum((2, 3)) + 1)
    hard, truth = logits > 0, wanted > 0.5
    iou = (hard & truth).sum((2, 3)) / (hard | truth).sum((2, 3)).clamp(min=1)
    return 20 * focal + dice + local, iou


def step_loss(
    sam: Any,
    batch: tuple[Tensor, Tensor, Tensor, Tensor],
    rng: np.random.Generator,
    g: torch.Generator,
    autocast: bool = False,
) -> tuple[Tensor, Tensor, int]:
    """The loss, the mean IoU of the single mask, and the prompt kind. `autocast`: the models' products in bfloat16."""
    images, index, boxes, masks = batch
    bf16 = torch.autocast(images.device.type, torch.bfloat16, enabled=autocast)
    with bf16:
        embeddings = sam.image_encoder(images)
    kind = int(rng.choice(3, p=[0.72, 0.2, 0.08]))
    points, box = prompt(sam, boxes, masks, kind, g)

    small = F.avg_pool2d(masks[:, None], masks.shape[-1] // (4 * embeddings.shape[-1]))[:, 0]

    def run(points: Any, box: Tensor | None, previous: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        sparse, dense = sam.prompt_encoder(points=points, boxes=box, masks=previous)
        with bf16:  # not the prompts: half precision moves a corner by a pixel
            low_res, predicted = sam_decoder.predict_masks(
                sam.mask_decoder, embeddings, index, sam.prompt_encoder.get_dense_pe(), sparse, dense
            )
        low_res, predicted = low_res.float(), predicted.float()
        losses, iou = mask_loss(low_res, small)
        total = losses[:, 0].mean() + losses[:, 1:].min(1).values.mean() + F.mse_loss(predicted, iou)
        return total, low_res, iou

    total, low_res, iou = run(points, box, None)
    if rng.random() < 0.25:
        answer = F.interpolate(low_res[:, :1].detach(), size=masks.shape[-2:], mode="bilinear")[:, 0] > 0
        truth = masks > 0.5
        wrong = answer ^ truth
        wrong = torch.where(wrong.flatten(1).any(1)[:, None, None], wrong, truth)
        spot = _points(wrong, g)
        label = truth[torch.arange(len(truth)), spot[:, 1].long(), spot[:, 0].long()].float()
        again, _, _ = run((spot[:, None], label[:, None]), box, low_res[:, :1].detach())
        total = total + again
    return total, iou[:, 0].mean(), kind


def main() -> None:
    parser = training.options(__doc__, batch=32, lr=1e-3, seed=2)
    parser.add_argument("--prompts", type=int, default=8, help="most prompts an image")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    arch = segmenter_architecture("sam-tiny")
    sam = sam_model.build(arch)
    for name, p in sam.named_parameters():
        if "pos_embed" in name or "rel_pos" in name:
            nn.init.trunc_normal_(p, std=0.02)
    if args.init:
        sam.load_state_dict(torch.load(args.init, map_location="cpu", weights_only=True))
    sam.to(args.device).train()

    def loss(step: int, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        images, index, boxes, masks = (t.to(args.device) for t in batch)
        rng = np.random.default_rng([args.seed, step, 1])
        g = torch.Generator(device=args.device).manual_seed(args.seed * 1_000_003 + step + 500_000)
        total, iou, kind = step_loss(sam, (images.float(), index, boxes, masks.float() / 255), rng, g, args.bf16)
        return total, {"loss": total, f"iou_{KINDS[kind]}": iou}

    groups: list[dict[str, Any]] = [
        {"params": [p for p in sam.parameters() if p.ndim > 1], "weight_decay": 1e-2},
        {"params": [p for p in sam.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    draw = Draw(arch.image_size, args.batch, args.prompts, args.seed, args.device)
    training.train(sam, nn.ModuleList(), groups, loss, draw, args)


if __name__ == "__main__":
    main()
