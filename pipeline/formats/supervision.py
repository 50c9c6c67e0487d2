"""Results as `supervision.Detections`, of the release that GroundingDINO's package pins (0.6.0) and of later ones."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.masks import decode_crop

if TYPE_CHECKING:
    from pipeline.result import Result


def to_supervision(result: Result, compact: bool) -> Any:
    """`supervision.Detections` with `xyxy`, `mask`, `confidence` and `class_id`.

    Releases whose detections hold `data` get the labels there too, as `class_name`: what annotators write.

    Args:
        result: any; its masks are `(N, H, W)` bool there, None where none were asked for.
        compact: keep the masks as runs, in supervision's `CompactMask`: N dense masks of a large image fill the memory.

    Raises:
        ImportError: supervision is not installed, or, for `compact`, too old.
    """
    import supervision

    names = {field.name for field in fields(supervision.Detections)}
    labels = {"data": {"class_name": np.array(result.labels, np.str_)}} if "data" in names else {}
    mask: Any = None
    if result.rles is not None:
        mask = _compact(result) if compact else result.masks
    return supervision.Detections(
        xyxy=result.boxes.copy(),
        mask=mask,
        confidence=result.scores.copy(),
        class_id=result.class_ids.astype(np.int64),
        **labels,
    )


def _compact(result: Result) -> Any:
    import supervision

    if not hasattr(getattr(supervision, "CompactMask", None), "from_coco_rle"):
        raise ImportError("compact masks need supervision 0.30 or newer")
    assert result.rles is not None
    rles, boxes = [], []
    for rle in result.rles:
        window, (y0, x0) = decode_crop(rle)
        rles.append({"size": list(rle.size), "counts": rle.counts})
        # It crops each mask to a box whose last pixels are included; the detector's box may cut a mask.
        boxes.append([x0, y0, x0 + max(0, window.shape[1] - 1), y0 + max(0, window.shape[0] - 1)])
    return supervision.CompactMask.from_coco_rle(rles, np.array(boxes, np.float32).reshape(-1, 4), result.image_size)
