"""Trains the embedded detector from scratch: `python -m pipeline.tiny.train_detector --out DIR`.

Scenes and texts are drawn on the fly. Resumable: the same command continues from DIR/state.pt.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models import groundingdino, groundingdino_build
from pipeline.models.architectures import detector_architecture
from pipeline.tiny import detector_loss, training
from pipeline.tiny.detector_batches import Batch, Draw, Known


def initialise(model: Any) -> None:
    """Gentler start than the official one: heads with a prior of about 0.02, fusion that takes part at once."""
    for layer in model.transformer.encoder.fusion_layers:
        nn.init.constant_(layer.gamma_v, 0.2)
        nn.init.constant_(layer.gamma_l, 0.2)
    # A logit is state . text, and both end in a LayerNorm: shrink both, and shift one channel of each so that the
    # product starts at -4.
    with torch.no_grad():
        for norm in (model.transformer.enc_output_norm, model.transformer.decoder.norm):
            norm.weight.fill_(0.3)
            norm.bias[0] = -4.0
        last = model.transformer.encoder.text_layers[-1].norm2
        last.weight.fill_(0.3)
        last.bias[0] = 1.0


class Tutor(nn.Module):
    """Names shape and colour at each object's centre and around it, straight from the projected backbone features.

    Shape is what a backbone from scratch learns last; this shortens the way of the gradient. Thrown away afterwards.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.maps: list[Tensor] = [torch.empty(0)] * 2
        self.heads = nn.ModuleList(nn.Linear(model.hidden_dim, 16) for _ in self.maps)
        for level in range(len(self.maps)):
            model.input_proj[level].register_forward_hook(self._keep(level))

    def _keep(self, level: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.maps[level] = output

        return hook

    def forward(self, known: Known, padding: Tensor) -> Tensor:
        height, width = (~padding[:, :, 0]).sum(1), (~padding[:, 0]).sum(1)
        share = torch.stack((width / padding.shape[2], height / padding.shape[1]), -1)
        corners = torch.tensor([[0, 0], [1, 1], [-1, 1], [1, -1], [-1, -1]], device=padding.device) * 0.22
        spots = known.boxes[:, :, None, :2] + corners * known.boxes[:, :, None, 2:]
        spots = spots * share[:, None, None] * 2 - 1
        total = torch.zeros((), device=padding.device)
        for head, features in zip(self.heads, self.maps, strict=True):
            at = F.grid_sample(features.float(), spots, align_corners=False).permute(0, 2, 3, 1)
            names = head(at[known.present])
            for logits, name in ((names[..., :8], known.shapes), (names[..., 8:], known.colours)):
                every = name[known.present][:, None].expand(logits.shape[:2])
                total = total + F.cross_entropy(logits.flatten(0, 1), every.flatten())
        return total


def detection_loss(model: Any, batch: Batch, images: Tensor, padding: Tensor, autocast: bool = False) -> Tensor:
    """Decoder layers one-to-one, encoder proposals one-to-many. `autocast`: the model's products in bfloat16."""
    device = images.device
    text, counts = batch.text.to(device), batch.targets.counts
    target_boxes, target_tokens = batch.targets.boxes.to(device), batch.targets.tokens.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        memory = groundingdino.encode(model, images, padding, text)
        logits, boxes = groundingdino.propose(model, memory)
        queries = groundingdino.top_queries(model, logits.detach())
        layer_logits, layer_boxes = groundingdino.decode(model, memory, boxes, queries)
    width = text.token_mask.shape[1]  # what lies behind it is padding, and says nothing
    logits, boxes, target_tokens = logits[..., :width].float(), boxes.float(), target_tokens[..., :width]
    layers = [(lo[..., :width].float(), bo.float()) for lo, bo in zip(layer_logits, layer_boxes, strict=True)]
    token_mask = text.token_mask
    usable = boxes.isfinite().all(-1)
    proposal_boxes = boxes.masked_fill(~usable[..., None], 0).sigmoid()
    valid = torch.arange(target_boxes.shape[1], device=device) < torch.tensor(counts, device=device)[:, None]
    with torch.no_grad():
        cost = detector_loss.costs(logits, proposal_boxes, target_boxes, target_tokens)
        dense = detector_loss.match_one_to_many(cost.masked_fill(~usable[..., None], 1e4), valid)
        costs = [detector_loss.costs(lo, bo, target_boxes, target_tokens) for lo, bo in layers]
        matches = [detector_loss.match_one_to_one(c, counts) for c in costs]
    total = detector_loss.loss(logits, proposal_boxes, target_boxes, target_tokens, token_mask, dense)
    for (lo, bo), match in zip(layers, matches, strict=True):
        total = total + detector_loss.loss(lo, bo, target_boxes, target_tokens, token_mask, match)
    return total


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weight decay on matrices only; sampling offsets learn at a fifth of the rate; BERT's pooler is never used."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        p.requires_grad_("pooler" not in name)
        if p.requires_grad:
            key = (0.2 if "sampling_offsets" in name else 1.0, 1e-2 if p.ndim > 1 else 0.0)
            groups.setdefault(key, []).append(p)
    return [{"params": ps, "scale": k[0], "weight_decay": k[1]} for k, ps in groups.items()]


def main() -> None:
    parser = training.options(__doc__, batch=64, lr=1e-3, seed=1)
    parser.add_argument("--short", type=int, nargs="+", default=[128, 160, 192], help="shorter sides to draw from, px")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    arch = detector_architecture("groundingdino-tiny")
    model = groundingdino_build.build(arch)
    initialise(model)
    if args.init:
        model.load_state_dict(torch.load(args.init, map_location="cpu", weights_only=True))
    model.to(args.device).train()
    tutor = Tutor(model).to(args.device)

    def loss(step: int, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        images, padding = batch.inputs(args.device)
        total = detection_loss(model, batch, images, padding, args.bf16)
        lesson = tutor(batch.known.to(args.device), padding)
        return total + 1.5 * lesson, {"loss": total, "tutor": lesson}

    groups = [*parameter_groups(model), {"params": [*tutor.parameters()], "weight_decay": 0.0}]
    draw = Draw(arch, args.batch, tuple(args.short), args.seed, args.device)
    training.train(model, tutor, groups, loss, draw, args)


if __name__ == "__main__":
    main()
