"""The whole pipeline, decoded images in, run lengths out: the official code one image after another, and ours.

Weights are drawn at random, so boxes are arbitrary: the detector's are thrown away, and five fixed ones take their
place.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco
from segment_anything import SamPredictor

from benchmarks.gpu.cores import official_answer
from benchmarks.gpu.measure import Bench
from benchmarks.gpu.models import official_detector, official_sam, ours
from pipeline.detector import Detector
from pipeline.image_encoder import ImageEncoder
from pipeline.mask_decoder import MaskDecoder
from pipeline.masks import decode
from pipeline.models.precision import Precision
from pipeline.prompt import parse_classes
from pipeline.stages import RLE, DecodeOptions, DetectRequest, Float32Array, MaskPrompts, UInt8Array
from tests.pipeline.judge import official_pixels, photo

Answer = list[list[RLE]]
"""Of each image the masks of its boxes."""

BATCH = 8
_DIFFERENT_PIXELS = 0.05  # of all: masks of random weights are noise, and half of their pixels near the threshold
_BOXES = (
    (0.05, 0.1, 0.4, 0.6),
    (0.5, 0.05, 0.95, 0.5),
    (0.3, 0.55, 0.7, 0.95),
    (0.02, 0.7, 0.2, 0.98),
    (0.1, 0.1, 0.9, 0.9),
)


def boxes_of(size: tuple[int, int]) -> Float32Array:
    """`5x4` in pixels of an image of `(height, width)`."""
    return (np.array(_BOXES) * [size[1], size[0], size[1], size[0]]).astype(np.float32)


def pipeline(bench: Bench, name: str) -> None:
    """Swin-T and the segmenter called `name`."""
    scene = bench.scene
    sam_model, sam_arch = official_sam(scene, name)
    detector, arch, bundle = official_detector(scene)
    images = [photo(*scene.photo_size, seed) for seed in range(min(BATCH, scene.many))]
    boxes = boxes_of(scene.photo_size)
    caption = " . ".join(scene.texts) + " ."
    predictor = SamPredictor(sam_model)

    def official(count: int) -> Answer:
        return [_official_image(detector, predictor, one, boxes, caption, arch, scene.device) for one in images[:count]]

    expected = official(len(images))
    bench.arm("official", 1, lambda: partial(official, 1))

    def build(precision: Precision, compile: bool) -> Callable[[], Answer]:
        stages = (
            Detector(ours(detector), arch, bundle, scene.device, precision),
            ImageEncoder(ours(sam_model), sam_arch, scene.device, precision, compile),
            MaskDecoder(ours(sam_model), sam_arch, scene.device, precision, masks_on_device=True),
        )
        request = DetectRequest(parse_classes(list(scene.texts)))
        # The same few pictures again and again: as many as fill the batches.
        return partial(_ours, stages, [images[i % len(images)] for i in range(scene.many)], boxes, request)

    def differs(found: Answer) -> float:
        return max(_different(one, expected[i % len(expected)]) for i, one in enumerate(found))

    arms: list[tuple[str, Precision, bool]] = [("float32", "float32", False), ("bfloat16", "bfloat16", False)]
    if not scene.tiny:
        arms.append(("bfloat16, compiled, recorded", "bfloat16", True))
    for arm, precision, compile in arms:
        bench.arm(arm, scene.many, partial(build, precision, compile), differs, _DIFFERENT_PIXELS)


def _different(found: list[RLE], expected: list[RLE]) -> float:
    """Share of the image's pixels, over all of its masks."""
    return float(np.mean([(decode(a) != decode(b)).mean() for a, b in zip(found, expected, strict=True)]))


def _official_image(
    model: Any, predictor: SamPredictor, image: UInt8Array, boxes: Float32Array, caption: str, arch: Any, device: str
) -> list[RLE]:
    """`predict` of groundingdino's inference module, then `SamPredictor`, as LangSAM puts them together."""
    item = type("Item", (), {"pixels": official_pixels(image, arch).numpy()})
    official_answer(model, item, caption, device)  # type: ignore[arg-type]  # pixels are all it reads
    predictor.set_image(image)
    corners = predictor.transform.apply_boxes_torch(torch.from_numpy(boxes).to(device), image.shape[:2])
    masks, _, _ = predictor.predict_torch(None, None, boxes=corners, multimask_output=False)
    rles = [coco.encode(np.asfortranarray(mask)) for mask in masks[:, 0].cpu().numpy()]
    return [RLE((rle["size"][0], rle["size"][1]), rle["counts"].decode()) for rle in rles]


def _ours(
    stages: tuple[Detector, ImageEncoder, MaskDecoder],
    images: list[UInt8Array],
    boxes: Float32Array,
    request: DetectRequest,
) -> Answer:
    """As the service runs it, without the service: preparing and finishing in threads, passes in batches."""
    detector, encoder, decoder = stages
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        to_detect = [pool.submit(detector.prepare, image, request) for image in images]
        to_encode = [pool.submit(encoder.prepare, image) for image in images]
        finished, found = [], []
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            detecting = [future.result() for future in to_detect[part]]
            for item, scores in zip(detecting, detector.forward(detecting), strict=True):
                found.append(pool.submit(detector.finish, item, scores))
            encoding = [future.result() for future in to_encode[part]]
            features = encoder.forward(encoding)
            embeddings = [encoder.finish(item, raw) for item, raw in zip(encoding, features, strict=True)]
            decoding = [decoder.prepare(one, MaskPrompts(boxes=boxes), DecodeOptions()) for one in embeddings]
            raws = decoder.forward(decoding)
            finished += [pool.submit(decoder.finish, item, raw) for item, raw in zip(decoding, raws, strict=True)]
        for one in found:
            one.result()
        return [list(one.result().rles) for one in finished]
