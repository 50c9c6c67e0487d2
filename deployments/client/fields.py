"""What a call may ask for, beside image and text. What is left out, or None, is left to the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt

Prompt = str | Sequence[str | Mapping[str, Any]]
"""`"car, wheel"`, `["car", "wheel"]` or `[{"text": "car", "box_threshold": 0.4}, "wheel"]`."""

Numbers = Sequence[Any] | npt.NDArray[np.floating[Any]] | npt.NDArray[np.integer[Any]]
MaskForm = Literal["rle", "polygon", "png", "none"]


class CallOptions(TypedDict, total=False):
    """Of the call itself.

    timeout_s: seconds for the whole call, retries and waits included; the client's own where left out.
    request_id: 1 to 128 letters, digits and `._:-`, for all attempts; a new UUID where left out.
    """

    timeout_s: float | None
    request_id: str | None


class DetectOptions(CallOptions, total=False):
    """The fields of `POST /v1/detect`. Thresholds, areas (of the box / of the image) and IoUs are 0 to 1.

    mode: `"phrase"` takes the text as one expression, commas and all.
    negative_prompt: what to leave out; negative_iou: from which overlap on.
    model: `"detector+segmenter"` or an alias; see `Client.models`.
    nms: drop overlapping boxes of one class, of any, or none.
    tile: for large images, `{"size", "overlap"}` in pixels, or `"auto"`.
    raw: as the published COCO evaluation, without thresholds and NMS.
    """

    mode: Literal["classes", "phrase"] | None
    negative_prompt: Prompt | None
    model: str | None
    box_threshold: float | None
    text_threshold: float | None
    nms: Literal["class", "agnostic", "off"] | None
    nms_threshold: float | None
    negative_iou: float | None
    min_area: float | None
    max_area: float | None
    max_detections: int | None
    tile: Literal["auto"] | Mapping[str, int] | None
    raw: bool | None


class SegmentOptions(DetectOptions, total=False):
    """The fields of `POST /v1/segment`.

    multimask: the best of SAM's three masks by predicted IoU.
    masks: the form in which masks travel; `Result` holds RLE whatever it is, and no masks with `"none"`.
    """

    multimask: bool | None
    masks: MaskForm | None


class MasksOptions(CallOptions, total=False):
    """The fields of `POST /v1/masks`; one prompt an instance, by `boxes`, `points`, or both.

    boxes: `(N, 4)` xyxy, in pixels of the upright image.
    points: `[x, y, label]`, label 1 for foreground and 0 for background: a list of them for one instance, or such a
        list for each.
    mask_input: `MaskResult.low_res` of an earlier answer, `(N, L, L)`, or as the HTTP answer holds them.
    low_res: also return what `mask_input` takes.
    """

    boxes: Numbers | None
    points: Numbers | None
    mask_input: npt.NDArray[np.floating[Any]] | Sequence[Any] | None
    model: str | None
    multimask: bool | None
    low_res: bool | None
    masks: Literal["rle", "polygon", "png"] | None
