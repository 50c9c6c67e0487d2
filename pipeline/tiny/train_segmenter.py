"""Trains the embedded SAM from scratch: `python -m pipeline.tiny.train_segmenter --out DIR`.

Scenes are drawn on the fly, on the training device. Prompts are boxes, points, both, and the answer of a first pass
with a correcting point. Resumable: a run continues from DIR/state.pt.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models import sam as sam_model
from pipeline.models.architectures import segmenter_architecture
from pipeline.tiny import feed, scenes
from pipeline.tiny.train_detector import learning_rate

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of `segment_anything.modeling.Sam`
GROUPS = 4


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
        s = scenes.draw(batch // GROUPS, *native, g)
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
    """Points (coordinates, labels) or None, and jittered boxes or None, for a prompt of `kind` 0 box, 1 points, 2 both."""
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
    sam: Any, images: Tensor, index: Tensor, boxes: Tensor, masks: Tensor, rng: np.random.Generator, g: torch.Generator
) -> tuple[Tensor, Tensor, int]:
    """The loss, the mean IoU of the single mask, and the prompt kind."""
    embeddings = sam.image_encoder(images)
    kind = int(rng.choice(3, p=[0.72, 0.2, 0.08]))
    points, box = prompt(sam, boxes, masks, kind, g)

    small = F.avg_pool2d(masks[:, None], masks.shape[-1] // (4 * embeddings.shape[-1]))[:, 0]

    def run(points: Any, box: Tensor | None, previous: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        sparse, dense = sam.prompt_encoder(points=points, boxes=box, masks=previous)
        low_res, predicted = sam_model.predict_masks(
            sam.mask_decoder, embeddings, index, sam.prompt_encoder.get_dense_pe(), sparse, dense
        )
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--average", type=float, default=0.999, help="decay of the averaged weights")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw batches ahead")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop (and save) after this long")
    parser.add_argument("--init", type=Path, help="start from these weights (a state dict) instead of from scratch")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    arch = segmenter_architecture("sam-tiny")
    sam = sam_model.build(arch)
    for name, p in sam.named_parameters():
        if "pos_embed" in name or "rel_pos" in name:
            nn.init.trunc_normal_(p, std=0.02)
    if args.init:
        sam.load_state_dict(torch.load(args.init, weights_only=True))
    sam.to(args.device).train()
    groups = [
        {"params": [p for p in sam.parameters() if p.ndim > 1], "weight_decay": 1e-2},
        {"params": [p for p in sam.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.99))
    average = {name: tensor.clone() for name, tensor in sam.state_dict().items()}
    start, began = 0, time.time()
    if (args.out / "state.pt").exists():
        state = torch.load(args.out / "state.pt", map_location=args.device, weights_only=True)
        sam.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, start = state["average"], state["step"]

    def save(step: int) -> None:
        state = {"model": sam.state_dict(), "optimizer": optimizer.state_dict(), "average": average, "step": step}
        torch.save(state, args.out / "state.tmp")
        (args.out / "state.tmp").rename(args.out / "state.pt")
        torch.save({k: v.half() for k, v in average.items()}, args.out / "average.pt")

    window: list[tuple[Tensor, Tensor, int]] = []
    draw = Draw(arch.image_size, args.batch, args.prompts, args.seed, args.device)
    for step, batch in feed.batches(draw, range(start, args.steps), args.workers):
        images, index, boxes, masks = (t.to(args.device) for t in batch)
        images, masks = images.float(), masks.float() / 255
        rng = np.random.default_rng([args.seed, step, 1])
        g = torch.Generator(device=args.device).manual_seed(args.seed * 1_000_003 + step + 500_000)
        progress = max((step + 1) / args.steps, (time.time() - began) / args.seconds)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, progress, args.lr)
        total, iou, kind = step_loss(sam, images, index, boxes, masks, rng, g)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(sam.parameters(), 1.0)
        optimizer.step()
        decay = min(args.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(sam.state_dict().values()), 1 - decay)
        window.append((total.detach(), iou.detach(), kind))
        if (step + 1) % 50 == 0 or step < 3:
            by_kind = {k: [i for _, i, kk in window if kk == k] for k in range(3)}
            row = {"step": step + 1, "loss": round(torch.stack([t for t, _, _ in window]).mean().item(), 4)}
            row |= {
                name: round(torch.stack(by_kind[k]).mean().item(), 4)
                for k, name in enumerate(("iou_box", "iou_point", "iou_both"))
                if by_kind[k]
            }
            row["seconds"] = round(time.time() - began, 1)
            window = []
            print(json.dumps(row), flush=True)
            with (args.out / "curve.jsonl").open("a") as f:
                f.write(json.dumps(row) + "\n")
        if (step + 1) % 200 == 0:
            save(step + 1)
        if time.time() - began > args.seconds:
            break
    save(step + 1)


if __name__ == "__main__":
    main()
