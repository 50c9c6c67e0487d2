"""What a caller asks for in words and thresholds -> what the detector looks for, and what is kept of its boxes.

In process and over HTTP it is read here, so that both mean the same by it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pipeline.prompt import Prompt, parse_classes
from pipeline.selection import NmsMode, SelectionOptions
from pipeline.stages import DetectRequest


def read_query(
    prompt: Prompt,
    *,
    mode: Literal["classes", "phrase"] = "classes",
    negative_prompt: Prompt | None = None,
    box_threshold: float | None = None,
    text_threshold: float | None = None,
    nms: NmsMode = "class",
    nms_threshold: float = 0.7,
    negative_iou: float = 0.5,
    min_area: float = 0.0,
    max_area: float = 1.0,
    max_detections: int = 100,
    raw: bool = False,
) -> tuple[DetectRequest, SelectionOptions]:
    """The arguments of `TextToMask.predict`, checked; each is described there.

    Raw mode is the best `max_detections` pairs of a box and a class: the detector is asked for so many, and NMS, which
    would drop some of them, is off whatever `nms` says.

    Raises:
        StageError: `invalid_value`, naming the argument, for a value or a type that may not be.
    """
    options = SelectionOptions(nms, nms_threshold, negative_iou, min_area, max_area, max_detections)
    request = DetectRequest(
        classes=parse_classes(prompt, mode),
        negatives=() if negative_prompt is None else parse_classes(negative_prompt, mode, "negative_prompt"),
        box_threshold=box_threshold,
        text_threshold=text_threshold,
        top_k=options.max_detections if raw else None,
    )
    return request, replace(options, nms="off") if raw else options
