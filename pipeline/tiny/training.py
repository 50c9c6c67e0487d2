"""The training loop that both trainers share: schedule, averaged weights, curve, resuming."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.tiny import feed

Loss = Callable[[int, Any], tuple[Tensor, dict[str, Tensor]]]
"""From a step number and its batch to the loss and the figures of the curve."""


def options(description: str | None, *, batch: int, lr: float, seed: int) -> argparse.ArgumentParser:
    """The command line that both trainers have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="state.pt, average.pt and curve.jsonl go here")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="stop after this long, the schedule fitted to it"
    )
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--average", type=float, default=0.999, help="decay of the averaged weights")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw batches ahead")
    parser.add_argument("--init", type=Path, help="start from these weights (a state dict) instead of from scratch")
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16, on processors made for it")
    return parser


def learning_rate(step: int, progress: float, peak: float) -> float:
    """Warm-up over 150 steps, and a cosine over `progress` (0 to 1) to a hundredth of the peak."""
    return peak * min(1.0, (step + 1) / 150) * (0.01 + 0.495 * (1 + math.cos(math.pi * min(1.0, progress))))


class _Average:
    """An exponential moving average of a model's floating-point state."""

    def __init__(self, model: nn.Module) -> None:
        self.state = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        pairs = [(self.state[k], v) for k, v in model.state_dict().items() if v.is_floating_point()]
        torch._foreach_lerp_([a for a, _ in pairs], [v for _, v in pairs], 1 - decay)


def train(
    model: nn.Module, tutor: nn.Module, groups: list[dict[str, Any]], loss: Loss, draw: feed.MakeBatch, args: Any
) -> None:
    """Trains until `args.steps` or `args.seconds`; continues from `args.out/state.pt` where there is one.

    Args:
        tutor: modules that train along and are thrown away; may be empty.
        groups: AdamW's parameter groups; a group's `scale` multiplies the learning rate.
    """
    args.out.mkdir(parents=True, exist_ok=True)
    torch.backends.mkldnn.matmul.fp32_precision = "tf32"  # type: ignore[attr-defined]  # oneDNN's products, not MKL's
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.99))
    parts: dict[str, Any] = {"model": model, "tutor": tutor, "optimizer": optimizer}
    average, start, spent = _Average(model), 0, 0.0
    if (args.out / "state.pt").exists():
        state = torch.load(args.out / "state.pt", map_location=args.device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        average.state, start, spent = state["average"], state["step"], state["seconds"]
    began = time.time() - spent  # the schedule counts the time of every run

    def save(step: int) -> None:
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"average": average.state, "step": step, "seconds": time.time() - began}
        torch.save(state, args.out / "state.tmp")
        (args.out / "state.tmp").rename(args.out / "state.pt")  # a run that is killed leaves the one before
        torch.save(average.state, args.out / "average.pt")

    window: dict[str, list[Tensor]] = defaultdict(list)
    step = start - 1
    for step, batch in feed.batches(draw, range(start, args.steps), args.workers):
        rate = learning_rate(step, max((step + 1) / args.steps, (time.time() - began) / args.seconds), args.lr)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        total, figures = loss(step, batch)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model, min(args.average, (1 + step) / (10 + step)))
        for name, value in figures.items():
            window[name].append(value.detach())
        if (step + 1) % 50 == 0:
            _report(args.out / "curve.jsonl", step + 1, rate, time.time() - began, window)
        if (step + 1) % 200 == 0:
            save(step + 1)
        if time.time() - began > args.seconds:
            break
    save(step + 1)


def _report(path: Path, step: int, rate: float, seconds: float, window: dict[str, list[Tensor]]) -> None:
    row: dict[str, float] = {"step": step, "lr": rate, "seconds": round(seconds, 1)}
    row |= {name: round(torch.stack(values).mean().item(), 4) for name, values in window.items()}
    window.clear()
    print(json.dumps(row), flush=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
