"""SAM's image encoder: an image in, an embedding out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam

from pipeline.bundle import Bundle, load_weights
from pipeline.image import decode_region
from pipeline.models import sam
from pipeline.models.architectures import SegmenterArchitecture, segmenter_architecture
from pipeline.stages import Embedding, Float32Array, ImageSource, Region

# `segment_anything.build_sam`
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)


@dataclass(frozen=True, slots=True)
class EncoderItem:
    """One image, ready for the model: `3xNxN` float32, normalised, zero on padding; sizes are `(height, width)`."""

    pixels: Float32Array
    input_size: tuple[int, int]
    image_size: tuple[int, int]
    region: Region | None
    key: str | None


class ImageEncoder:
    """Encodes images. `prepare` and `finish` are thread-safe; one thread at a time in `forward`.

    Args:
        model: an official `Sam`, as `pipeline.models.sam.build` makes it; only its image encoder is kept.
        arch: its hyper-parameters.
        device: where the model runs.
    """

    def __init__(self, model: Sam, arch: SegmenterArchitecture, device: str = "cpu") -> None:
        self.model = model.image_encoder.to(device).eval()
        self.arch = arch
        self.device = device

    @classmethod
    def from_bundle(cls, bundle: Bundle, *, device: str = "cpu", threads: int | None = None) -> ImageEncoder:
        """Builds the model and loads the bundle's weights; `threads` sets torch's, process-wide. Raises BundleError."""
        if threads is not None:
            torch.set_num_threads(threads)
        arch = segmenter_architecture(bundle.architecture)
        model = sam.build(arch)
        load_weights(model, bundle)
        return cls(model, arch, device)

    def prepare(self, image: ImageSource, key: str | None = None, region: Region | None = None) -> EncoderItem:
        """Decodes, crops, resizes and normalises (`SamPredictor.set_image`). Raises StageError for a bad image."""
        pixels = decode_region(image, region)
        image_size = (pixels.shape[0], pixels.shape[1])
        side = self.arch.image_size
        height, width = input_size(image_size, side)
        resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BILINEAR)
        padded = np.zeros((3, side, side), np.float32)
        padded[:, :height, :width] = ((np.asarray(resized, np.float32) - MEAN) / STD).transpose(2, 0, 1)
        return EncoderItem(padded, (height, width), image_size, region, key)

    def batch_key(self, item: EncoderItem) -> None:
        """Every item has the same shape."""
        return

    def cost(self, item: EncoderItem) -> int:
        return 1

    @torch.inference_mode()
    def forward(self, batch: Sequence[EncoderItem]) -> list[Float32Array]:
        """`CxSxS` float32 features of each item."""
        images = torch.from_numpy(np.stack([item.pixels for item in batch])).to(self.device)
        return list(sam.encode_images(self.model, images).float().cpu().numpy())

    def finish(self, item: EncoderItem, raw: Float32Array) -> Embedding:
        # A copy, so that one embedding does not keep its whole batch in memory.
        return Embedding(raw.copy(), item.input_size, item.image_size, item.region, item.key)

    def encode(
        self, image: ImageSource, key: str | None = None, region: Region | None = None, deadline: float | None = None
    ) -> Embedding:
        """`prepare`, `forward` and `finish` for one image. The deadline matters to the service only."""
        item = self.prepare(image, key, region)
        return self.finish(item, self.forward([item])[0])


def input_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """`(height, width)` after `segment_anything.utils.transforms.ResizeLongestSide(side)`."""
    scale = side / max(size)
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))
