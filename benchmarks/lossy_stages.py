"""The stages of the embedded model in each mode that changes answers, for `benchmarks.lossy_modes`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipeline import detector as detection
from pipeline import image_encoder as encoding
from pipeline.bundle import resolve
from pipeline.detector import Detector
from pipeline.image import decode_region
from pipeline.image_encoder import ImageEncoder
from pipeline.mask_decoder import MaskDecoder
from pipeline.stages import DetectRequest, Embedding, Float32Array, ImageSource, UInt8Array


class TorchResizedDetector(Detector):
    """Resizes as a GPU would: torch's antialiased bilinear, in float32, without rounding to whole levels."""

    def prepare(self, image: ImageSource, request: DetectRequest) -> detection.DetectorItem:
        item = super().prepare(image, request)
        pixels = resized(decode_region(image, request.region), item.pixels.shape[1:]) / np.float32(255)
        return replace(item, pixels=(pixels - detection.MEAN[:, None, None]) / detection.STD[:, None, None])


class TorchResizedEncoder(ImageEncoder):
    """As above."""

    def prepare(self, image: ImageSource, key: str | None = None, region: Any = None) -> encoding.EncoderItem:
        item = super().prepare(image, key, region)
        height, width = item.input_size
        small = resized(decode_region(image, region), item.input_size)
        pixels = np.zeros_like(item.pixels)
        pixels[:, :height, :width] = (small - encoding.MEAN[:, None, None]) / encoding.STD[:, None, None]
        return replace(item, pixels=pixels)


class HalfEncoder(ImageEncoder):
    """Embeddings kept in float16."""

    def finish(self, item: encoding.EncoderItem, raw: Float32Array) -> Embedding:
        made = super().finish(item, raw)
        return replace(made, features=made.features.astype(np.float16).astype(np.float32))


def resized(pixels: UInt8Array, size: Sequence[int]) -> Float32Array:
    """`HxWx3` -> `3xhxw`."""
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float()[None]
    small = F.interpolate(planes, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)[0]
    return small.contiguous().numpy()


@dataclass(frozen=True)
class Mode:
    """Stages of its own, where it has some; float32's serve for the others."""

    name: str
    detector: Detector | None = None
    encoder: ImageEncoder | None = None
    decoder: MaskDecoder | None = None


def modes() -> list[Mode]:
    boxes, masks = resolve("tiny", "detector"), resolve("tiny", "segmenter")
    found, encoder, decoder = Detector.from_bundle, ImageEncoder.from_bundle, MaskDecoder.from_bundle
    return [
        Mode("float32", found(boxes), encoder(masks), decoder(masks)),
        Mode("bfloat16 detector", detector=found(boxes, precision="bfloat16")),
        Mode("bfloat16 image encoder", encoder=encoder(masks, precision="bfloat16")),
        Mode("bfloat16 mask decoder", decoder=decoder(masks, precision="bfloat16")),
        Mode(
            "bfloat16 throughout",
            found(boxes, precision="bfloat16"),
            encoder(masks, precision="bfloat16"),
            decoder(masks, precision="bfloat16"),
        ),
        Mode("float16 image encoder", encoder=encoder(masks, precision="float16")),
        Mode("float16 embeddings", encoder=HalfEncoder.from_bundle(masks)),
        Mode("detector's shapes in buckets", detector=found(boxes, shapes="buckets")),
        Mode("resizing by torch", TorchResizedDetector.from_bundle(boxes), TorchResizedEncoder.from_bundle(masks)),
    ]
