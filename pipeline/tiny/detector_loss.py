"""The detector's training loss: Hungarian matching on boxes and text (GroundingDINO, section 3; DINO)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou_loss

Matches = tuple[Tensor, Tensor, Tensor]
"""Index tensors `(M,)`: image in the batch, query, object."""


def _pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """`BxQxG` generalised IoU of xyxy boxes `BxQx4` and `BxGx4`."""
    a, b = a[:, :, None], b[:, None]
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    inter = (high - low).clamp(min=0).prod(-1)
    area_a, area_b = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    union = area_a + area_b - inter
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    return inter / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def costs(logits: Tensor, boxes: Tensor, target_boxes: Tensor, target_tokens: Tensor) -> Tensor:
    """`BxQxG` matching costs 2 / 5 / 2 of text, L1 and GIoU.

    Args:
        logits: `BxQxT`, `-inf` on padding. boxes: `BxQx4` normalised cxcywh.
        target_boxes: `BxGx4` cxcywh. target_tokens: `BxGxT` bool.
    """
    p = logits.sigmoid()
    positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
    negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
    weight = target_tokens.float() / target_tokens.sum(-1, keepdim=True).clamp(min=1)
    text = torch.einsum("bqt,bgt->bqg", positive - negative, weight)
    l1 = (boxes[:, :, None] - target_boxes[:, None]).abs().sum(-1)
    giou = _pairwise_giou(box_convert(boxes, "cxcywh", "xyxy"), box_convert(target_boxes, "cxcywh", "xyxy"))
    return 2 * text + 5 * l1 - 2 * giou


def match_one_to_one(cost: Tensor, counts: list[int]) -> Matches:
    """Hungarian assignment; `counts` is the number of objects of each image (the first rows of G)."""
    host = cost.detach().float().cpu().numpy()
    image, query, target = [], [], []
    for b, count in enumerate(counts):
        rows, columns = linear_sum_assignment(host[b, :, :count])
        image += [b] * len(rows)
        query += rows.tolist()
        target += columns.tolist()
    return tuple(torch.tensor(i, device=cost.device, dtype=torch.int64) for i in (image, query, target))  # type: ignore[return-value]


def match_one_to_many(cost: Tensor, valid: Tensor, k: int = 5) -> Matches:
    """The k cheapest queries of each object; a query wanted twice goes to the object it costs least."""
    best = torch.full_like(cost, float("inf"))
    index = cost.topk(k, dim=1, largest=False).indices
    best.scatter_(1, index, cost.gather(1, index))
    best = best.masked_fill(~valid[:, None], float("inf"))
    value, target = best.min(-1)
    image, query = value.isfinite().nonzero(as_tuple=True)
    return image, query, target[image, query]


def loss(
    logits: Tensor, boxes: Tensor, target_boxes: Tensor, target_tokens: Tensor, token_mask: Tensor, matches: Matches
) -> Tensor:
    """2 x token focal + 5 x L1 + 2 x GIoU, over the number of matches."""
    image, query, target = matches
    wanted = torch.zeros_like(logits)
    wanted[image, query] = target_tokens[image, target].float()
    x = logits.masked_fill(~token_mask[:, None], -20.0)
    p = x.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(x, wanted, reduction="none")
    agreement = p * wanted + (1 - p) * (1 - wanted)
    alpha = 0.25 * wanted + 0.75 * (1 - wanted)
    focal = (alpha * (1 - agreement) ** 2 * cross_entropy * token_mask[:, None]).sum()
    picked, truth = boxes[image, query], target_boxes[image, target]
    l1 = (picked - truth).abs().sum()
    giou = generalized_box_iou_loss(
        box_convert(picked, "cxcywh", "xyxy"), box_convert(truth, "cxcywh", "xyxy"), reduction="sum"
    )
    total: Tensor = (2 * focal + 5 * l1 + 2 * giou) / max(len(image), 1)
    return total
