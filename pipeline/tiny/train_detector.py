"""Trains the embedded detector from scratch: `python -m pipeline.tiny.train_detector --out DIR`.

Scenes and texts are drawn on the fly, on the training device. Resumable: a run continues from DIR/state.pt.
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

from pipeline.models import groundingdino
from pipeline.models.architectures import DetectorArchitecture, detector_architecture
from pipeline.tiny import detector_loss, feed, phrases, scenes

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEPARATORS = frozenset(phrases.TOKEN_IDS[t] for t in ("[CLS]", "[SEP]", ".", "?"))
NOMINAL = 192 * 256  # a larger padded picture gets a smaller batch, so that memory stays bounded
GROUPS = 4  # a batch is drawn in this many groups, each with a native size of its own


def initialise(model: Any) -> None:
    """Gentler start than the official one: heads with a prior of about 0.02, fusion that takes part at once."""
    for layer in model.transformer.encoder.fusion_layers:
        nn.init.constant_(layer.gamma_v, 0.2)
        nn.init.constant_(layer.gamma_l, 0.2)
    # logits are state . text; both end in a LayerNorm of C channels: shrink both, and shift one channel of each so
    # that the product starts at -4
    for norm in (model.transformer.enc_output_norm, model.transformer.decoder.norm):
        nn.init.constant_(norm.weight, 0.3)
        with torch.no_grad():
            norm.bias[0] = -4.0
    for layer in model.transformer.encoder.text_layers[-1:]:
        nn.init.constant_(layer.norm2.weight, 0.3)
        with torch.no_grad():
            layer.norm2.bias[0] = 1.0


def input_size(arch: DetectorArchitecture, aspect: float) -> tuple[int, int]:
    """`(height, width)` after resizing an image of `aspect` = width / height."""
    short = min(arch.short_side, round(arch.long_side / max(aspect, 1 / aspect)))
    return (short, round(short * aspect)) if aspect >= 1 else (round(short / aspect), short)


def picture_batch(
    arch: DetectorArchitecture, batch: int, rng: np.random.Generator, g: torch.Generator
) -> tuple[Tensor, tuple[int, int], Tensor, scenes.Scenes]:
    """Resized images `Bx3xHxW` in 0..255, the padded size, boxes `BxKx4` normalised cxcywh, and scenes without pixels."""
    aspect = float(np.exp(rng.uniform(0, math.log(3.2)) if rng.random() < 0.93 else rng.uniform(1.1, math.log(6))))
    aspect = aspect if rng.random() < 0.5 else 1 / aspect
    height, width = input_size(arch, aspect)
    step = arch.pad_multiple
    padded = math.ceil(height / step) * step, math.ceil(width / step) * step
    group = max(1, min(batch, int(batch * NOMINAL / (padded[0] * padded[1]))) // GROUPS)
    images, boxes, drawn = [], [], []
    for _ in range(GROUPS):
        scale = float(np.exp(rng.uniform(math.log(200 / 192), math.log(2.2))))  # native pixels an input pixel
        native = round(height * scale), round(width * scale)
        s = scenes.draw(group, *native, g, held_out=False)
        picture = F.interpolate(s.images, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
        images.append(picture.round())
        size = torch.tensor([native[1], native[0]] * 2, device=g.device)
        corners = s.boxes / size
        boxes.append(torch.cat(((corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]), -1))
        s.images = s.masks = picture.new_zeros(0)
        drawn.append(s)
    merged = scenes.Scenes(
        drawn[0].images,
        drawn[0].masks,
        torch.cat([s.boxes for s in drawn]),
        torch.cat([s.shapes for s in drawn]),
        torch.cat([s.colours for s in drawn]),
        torch.cat([s.present for s in drawn]),
    )
    return torch.cat(images), padded, torch.cat(boxes), merged


def text_targets(
    s: scenes.Scenes, boxes: Tensor, rng: np.random.Generator
) -> tuple[groundingdino.TextBatch, Tensor, Tensor, list[int]]:
    """Captions, and for the objects that they mean: boxes `BxGx4`, tokens `BxGx256` bool, and counts."""
    shapes, colours, present = (t.cpu().numpy() for t in (s.shapes, s.colours, s.present))
    ids, wanted, order = [], torch.zeros((len(shapes), scenes.SLOTS, 256), dtype=torch.bool), []
    for b in range(len(shapes)):
        there = np.flatnonzero(present[b])
        classes = phrases.sample(colours[b, there], shapes[b, there], rng)
        tokens, spans = phrases.caption(classes)
        ids.append(tokens)
        positive = np.zeros((len(there), 256), dtype=bool)
        for one, (start, end) in zip(classes, spans, strict=True):
            positive[one.matches(colours[b, there], shapes[b, there]), start:end] = True
        named = positive.any(1)
        order.append(there[named])
        wanted[b, : named.sum()] = torch.from_numpy(positive[named])
    text = groundingdino.text_batch(ids, SEPARATORS, phrases.TOKEN_IDS["[PAD]"]).to(boxes.device)
    index = torch.zeros((len(shapes), scenes.SLOTS), dtype=torch.int64)
    for b, rows in enumerate(order):
        index[b, : len(rows)] = torch.from_numpy(rows)
    picked = boxes.gather(1, index.to(boxes.device)[..., None].expand(-1, -1, 4))
    return text, picked, wanted.to(boxes.device), [len(rows) for rows in order]


def step_loss(model: Any, images: Tensor, padding: Tensor, targets: tuple[Any, Tensor, Tensor, list[int]]) -> Tensor:
    """Decoder layers one-to-one, encoder proposals one-to-many."""
    text, target_boxes, target_tokens, counts = targets
    memory = groundingdino.encode(model, images, padding, text)
    logits, boxes = groundingdino.propose(model, memory)
    queries = groundingdino.top_queries(model, logits.detach())
    layer_logits, layer_boxes = groundingdino.decode(model, memory, boxes, queries)
    token_mask = F.pad(text.token_mask, (0, 256 - text.token_mask.shape[1]))
    usable = boxes.isfinite().all(-1)
    valid = torch.arange(target_boxes.shape[1], device=images.device) < torch.tensor(counts, device=images.device)[:, None]
    proposal_boxes = boxes.masked_fill(~usable[..., None], 0).sigmoid()
    with torch.no_grad():
        cost = detector_loss.costs(logits, proposal_boxes, target_boxes, target_tokens)
        cost = cost.masked_fill(~usable[..., None], 1e4)
        dense = detector_loss.match_one_to_many(cost, valid)
        layer_costs = [
            detector_loss.costs(lo, bo, target_boxes, target_tokens)
            for lo, bo in zip(layer_logits, layer_boxes, strict=True)
        ]
        matches = [detector_loss.match_one_to_one(c, counts) for c in layer_costs]
    total = detector_loss.loss(logits, proposal_boxes, target_boxes, target_tokens, token_mask, dense)
    for lo, bo, match in zip(layer_logits, layer_boxes, matches, strict=True):
        total = total + detector_loss.loss(lo, bo, target_boxes, target_tokens, token_mask, match)
    return total


def learning_rate(step: int, progress: float, peak: float) -> float:
    """Warm-up over 150 steps, and a cosine over `progress` (0 to 1) to a hundredth of the peak."""
    return peak * min(1.0, (step + 1) / 150) * (0.01 + 0.495 * (1 + math.cos(math.pi * min(1.0, progress))))


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay on matrices only; sampling offsets learn at a fifth of the rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        p.requires_grad_("pooler" not in name)
        if p.requires_grad:
            key = (0.2 if "sampling_offsets" in name else 1.0, 1e-2 if p.ndim > 1 else 0.0)
            groups.setdefault(key, []).append(p)
    return [{"params": ps, "scale": k[0], "weight_decay": k[1]} for k, ps in groups.items()]


@dataclass(frozen=True, slots=True)
class Draw:
    """The batch of a step: uint8 images, their size before padding, and the targets; all on the CPU."""

    arch: DetectorArchitecture
    batch: int
    seed: int
    device: str

    def __call__(self, step: int) -> tuple[Tensor, tuple[int, int], Any]:
        rng = np.random.default_rng([self.seed, step])
        g = torch.Generator(device=self.device).manual_seed(self.seed * 1_000_003 + step)
        images, padded, boxes, s = picture_batch(self.arch, self.batch, rng, g)
        return images.byte().cpu(), padded, text_targets(s, boxes.cpu(), rng)


def to_device(batch: tuple[Tensor, tuple[int, int], Any], device: str) -> tuple[Tensor, Tensor, Any]:
    """Normalised padded images `Bx3xHxW`, padding `BxHxW` and targets on the training device."""
    images, padded, (text, boxes, tokens, counts) = batch
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
    x = (images.to(device).float() / 255 - mean) / std
    pad = (0, padded[1] - x.shape[-1], 0, padded[0] - x.shape[-2])
    padding = F.pad(torch.zeros((len(x), *x.shape[-2:]), device=device), pad, value=1.0).bool()
    return F.pad(x, pad), padding, (text.to(device), boxes.to(device), tokens.to(device), counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--average", type=float, default=0.999, help="decay of the averaged weights")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw batches ahead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop (and save) after this long")
    parser.add_argument("--init", type=Path, help="start from these weights (a state dict) instead of from scratch")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    arch = detector_architecture("groundingdino-tiny")
    model = groundingdino.build(arch)
    initialise(model)
    if args.init:
        model.load_state_dict(torch.load(args.init, weights_only=True))
    model.to(args.device).train()
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=args.lr, betas=(0.9, 0.99))
    average = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start, began = 0, time.time()
    if (args.out / "state.pt").exists():
        state = torch.load(args.out / "state.pt", map_location=args.device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, start = state["average"], state["step"]

    def save(step: int) -> None:
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average, "step": step}
        torch.save(state, args.out / "state.tmp")
        (args.out / "state.tmp").rename(args.out / "state.pt")
        torch.save({k: v.half() if v.is_floating_point() else v for k, v in average.items()}, args.out / "average.pt")

    window: list[Tensor] = []
    draw = Draw(arch, args.batch, args.seed, args.device)
    for step, batch in feed.batches(draw, range(start, args.steps), args.workers):
        images, padding, targets = to_device(batch, args.device)
        progress = max((step + 1) / args.steps, (time.time() - began) / args.seconds)
        rate = learning_rate(step, progress, args.lr)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        total = step_loss(model, images, padding, targets)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(args.average, (1 + step) / (10 + step))
        with torch.no_grad():
            floats = [(average[k], v) for k, v in model.state_dict().items() if v.is_floating_point()]
            torch._foreach_lerp_([a for a, _ in floats], [v for _, v in floats], 1 - decay)
        window.append(total.detach())
        if (step + 1) % 50 == 0 or step < 3:
            row = {"step": step + 1, "loss": round(torch.stack(window).mean().item(), 4), "lr": rate,
                   "seconds": round(time.time() - began, 1)}
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
