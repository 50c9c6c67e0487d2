"""A large image through the stages in one process, tile by tile. In the service `deployments/tiles.py` does it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from pipeline.detector import Detector
from pipeline.image_encoder import ImageEncoder
from pipeline.mask_decoder import MaskDecoder
from pipeline.seams import limit, merge
from pipeline.selection import SelectionOptions
from pipeline.stages import DecodeOptions, Detections, DetectRequest, MaskPrompts, Masks, UInt8Array
from pipeline.tiling import Tiling


@dataclass(frozen=True, slots=True)
class Found:
    """What is kept, best first, its masks where they were asked for, and how many detections each step removed.

    `detected` and `encoded` are when the detector and the encoder would have been through had they run one after the
    other, on the clock of `time.perf_counter`.
    """

    kept: Detections
    masks: Masks | None
    removed: dict[str, int]
    detected: float
    encoded: float


def find_by_tiles(
    stages: tuple[Detector, ImageEncoder, MaskDecoder],
    pixels: UInt8Array,
    tiling: Tiling,
    request: DetectRequest,
    selection: SelectionOptions,
    decoding: DecodeOptions | None,
) -> Found:
    """Every tile through the detector; those in which something was found through the segmenter; one answer.

    Without `decoding` no tile is segmented, and boxes stand for masks where tiles overlap.

    Raises:
        StageError: as the stages do.
    """
    detector, image_encoder, mask_decoder = stages
    admitted = []
    for number, region in enumerate(tiling.regions):
        found = detector.detect(pixels, replace(request, region=region))
        admitted.append(tiling.admit(found, number, selection))
    admitted = limit(admitted)
    detected = time.perf_counter()
    if decoding is None:
        boxes, _, removed = merge(tiling, admitted, None, selection)
        return Found(boxes, None, removed, detected, detected)
    masks, encoding = [], 0.0
    for region, one in zip(tiling.regions, admitted, strict=True):
        if not len(one.kept):
            masks.append(Masks.empty())
            continue
        begin = time.perf_counter()
        embedding = image_encoder.encode(pixels, region=region)
        encoding += time.perf_counter() - begin
        masks.append(mask_decoder.decode(embedding, MaskPrompts(boxes=one.kept.boxes), decoding))
    merged, united, removed = merge(tiling, admitted, masks, selection)
    assert united is not None  # masks went in
    return Found(merged, united, removed, detected, detected + encoding)
