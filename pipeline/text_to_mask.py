"""The stages in one process: the reference that every other path must equal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

from PIL import Image

from pipeline.bundle import resolve, split_model_name
from pipeline.by_tiles import find_by_tiles
from pipeline.detector import Detector, Shapes
from pipeline.image import decode, from_pil
from pipeline.image_encoder import ImageEncoder
from pipeline.mask_decoder import MaskDecoder
from pipeline.mask_prompts import Numbers, fit, parse_mask_prompts
from pipeline.mask_result import MaskResult, assemble_masks
from pipeline.models.precision import Precision
from pipeline.prompt import Prompt
from pipeline.query import read_query
from pipeline.result import Result, assemble
from pipeline.selection import NmsMode, select
from pipeline.stages import DecodeOptions, ImageSource, MaskPrompts, Masks, UInt8Array
from pipeline.tiling import parse_tile, plan

AnyImage = str | Path | ImageSource | Image.Image
"""A path; encoded bytes; an upright `HxWx3` uint8 RGB array; or a PIL image."""


class TextToMask:
    """Words in, masks out, in this process.

    Args:
        detector, image_encoder, mask_decoder: the three stages.
        name: what results call the pair.
    """

    def __init__(self, detector: Detector, image_encoder: ImageEncoder, mask_decoder: MaskDecoder, name: str) -> None:
        self.detector = detector
        self.image_encoder = image_encoder
        self.mask_decoder = mask_decoder
        self.name = name

    @classmethod
    def from_pretrained(
        cls,
        model: str | None = None,
        *,
        detector: str | Path | None = None,
        segmenter: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        shapes: Shapes = "exact",
    ) -> TextToMask:
        """Loads a pair of bundles; nothing is fetched.

        Args:
            model: `"tiny"`, or `"DETECTOR+SEGMENTER"` such as `"swint+vit_b"`.
            detector, segmenter: instead of `model` or of one of its parts, a registry name or a bundle's folder.
            device: `"cpu"`, `"cuda"`, or another of torch's.
            precision: of the layers that can be less precise: `"float32"`, or, faster on a GPU and with slightly
                other answers, `"bfloat16"` or `"float16"`.
            shapes: what the detector pads images to: `"exact"`, or `"buckets"` as a service may (`docs/batching.md`).

        Raises:
            BundleError: a part is unknown, not on this machine, or not what its hash says.
        """
        if model is None and detector is None and segmenter is None:
            model = "tiny"
        first, second = split_model_name(model) if model is not None else ("tiny", "tiny")
        found = resolve(detector if detector is not None else first, "detector")
        masks = resolve(segmenter if segmenter is not None else second, "segmenter")
        return cls(
            Detector.from_bundle(found, device=device, precision=precision, shapes=shapes),
            ImageEncoder.from_bundle(masks, device=device, precision=precision),
            MaskDecoder.from_bundle(masks, device=device, precision=precision),
            name=f"{found.name}+{masks.name}",
        )

    def predict(
        self,
        image: AnyImage,
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
        multimask: bool = False,
        tile: Literal["auto"] | Mapping[str, int] | None = None,
        raw: bool = False,
        masks: bool = True,
    ) -> Result:
        """Finds and masks every instance of the classes that `prompt` names.

        Args:
            image: see `AnyImage`.
            prompt: `"car, wheel"`, or a list of texts or of `{"text", "box_threshold"}`.
            mode: in `"phrase"` a string is one referring expression, whatever separators it holds.
            negative_prompt: what must not be found: its boxes remove overlapping ones that score lower.
            box_threshold, text_threshold: 0 to 1; the detector bundle's own where None.
            nms, nms_threshold, negative_iou, min_area, max_area, max_detections: see `SelectionOptions`.
            multimask: the best of SAM's three masks by predicted IoU, instead of its single one.
            tile: for large images: `{"size", "overlap"}` in pixels, or `"auto"`; see `pipeline.tiling.plan`. Not raw.
            raw: as the published COCO evaluation: the best `max_detections` pairs of a box and a class, by mean token
                probability (which is both scores). Thresholds, a class's own too, and NMS do not apply, areas do; a
                negative prompt is refused.
            masks: False: boxes alone, as `POST /v1/detect`; the segmenter does not run.

        Returns:
            instances by falling score; masks as RLE of the upright image.

        Raises:
            StageError: the image or an argument is refused, also for its type, before any model runs.
        """
        start = time.perf_counter()
        request, options = read_query(
            prompt,
            mode=mode,
            negative_prompt=negative_prompt,
            box_threshold=box_threshold,
            text_threshold=text_threshold,
            nms=nms,
            nms_threshold=nms_threshold,
            negative_iou=negative_iou,
            min_area=min_area,
            max_area=max_area,
            max_detections=max_detections,
            raw=raw,
        )
        tile_size = None if tile is None else parse_tile(tile)
        decoding = DecodeOptions(multimask) if masks else None
        pixels = load_image(image)
        tiling = plan((pixels.shape[0], pixels.shape[1]), tile_size, self.detector.arch.short_side, request)
        if tiling is not None:
            stages = self.detector, self.image_encoder, self.mask_decoder
            found = find_by_tiles(stages, pixels, tiling, request, options, decoding)
            timings_ms = _timings_ms(start, detect=found.detected, encode=found.encoded)
            return assemble(request, found.kept, found.removed, found.masks, model=self.name, timings_ms=timings_ms)
        detections = self.detector.detect(pixels, request)
        detected = time.perf_counter()
        kept, removed = select(detections, options)
        decoded = None if decoding is None else Masks.empty()
        encoded = detected
        if decoding is not None and len(kept):
            embedding = self.image_encoder.encode(pixels)
            encoded = time.perf_counter()
            decoded = self.mask_decoder.decode(embedding, MaskPrompts(boxes=kept.boxes), decoding)
        timings_ms = _timings_ms(start, detect=detected, encode=encoded)
        return assemble(request, kept, removed, decoded, model=self.name, timings_ms=timings_ms)

    def masks(
        self,
        image: AnyImage,
        *,
        boxes: Numbers | None = None,
        points: Numbers | None = None,
        mask_input: Numbers | None = None,
        multimask: bool = False,
        low_res: bool = False,
    ) -> MaskResult:
        """Masks the instances that boxes or points show, one a prompt. No text, no detector.

        Those of `boxes`, `points` and `mask_input` that are given have equal lengths; at least one of the first two.
        What each may hold, and how many: `pipeline.mask_prompts`.

        Args:
            image: see `AnyImage`.
            boxes: N of `x0, y0, x1, y1`, in pixels of the upright image; clipped to it.
            points: of one instance, a list of `x, y, label` (1 foreground, 0 background); or N such lists.
            mask_input: N low-resolution masks, the `low_res` of earlier results.
            multimask: the best of SAM's three masks by predicted IoU, and all three as `alternatives`.
            low_res: also return the logits.

        Raises:
            StageError: the image or an argument is refused.
        """
        start = time.perf_counter()
        options = DecodeOptions(multimask, low_res, alternatives=multimask)
        prompts = parse_mask_prompts(boxes, points, mask_input, options)
        pixels = load_image(image)
        size = (pixels.shape[0], pixels.shape[1])
        prompts, warnings = fit(prompts, size)
        embedding = self.image_encoder.encode(pixels)
        encoded = time.perf_counter()
        masks = self.mask_decoder.decode(embedding, prompts, options)
        result = assemble_masks(prompts, masks, size, model=self.name, warnings=warnings)
        return replace(result, timings_ms=_timings_ms(start, encode=encoded))


def _timings_ms(start: float, **ends: float) -> dict[str, float]:
    """Milliseconds of each stage and in total. `ends`: when each was through, in order; the last, `masks`, is now."""
    ends["masks"] = time.perf_counter()
    seconds = {name: end - begin for name, (begin, end) in zip(ends, pairwise((start, *ends.values())), strict=True)}
    seconds["total"] = ends["masks"] - start
    return {name: round(1000 * spent, 1) for name, spent in seconds.items()}


def load_image(image: AnyImage) -> UInt8Array:
    """An upright `HxWx3` uint8 RGB array. Raises StageError for one that is refused, OSError for a missing file."""
    if isinstance(image, Image.Image):
        return from_pil(image)
    if isinstance(image, (str, Path)):
        image = Path(image).read_bytes()
    return decode(image)
