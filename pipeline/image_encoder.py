"""SAM's image encoder: an image in, an embedding out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam

from pipeline.bundle import Bundle, load_weights
from pipeline.image import decode_region
from pipeline.models import sam, transfer
from pipeline.models.architectures import SegmenterArchitecture, segmenter_architecture
from pipeline.models.buckets import BUCKETS, Bucketed, Pass, up_to
from pipeline.models.pixels import normalised
from pipeline.models.precision import DTYPES, Precision, lower
from pipeline.planes import planes
from pipeline.stages import Embedding, Float32Array, ImageSource, Region, UInt8Array

# `segment_anything.build_sam`
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
# Between two ways to compute the same, as shares of the largest value: between float32 and the lower two it is half.
_TOLERANCE: dict[Precision, float] = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}


@dataclass(frozen=True, slots=True)
class EncoderItem:
    """One image, ready for the model: `3xNxN`, zero on padding; float32 and normalised, or uint8 where the device
    normalises. Sizes are `(height, width)`."""

    pixels: Float32Array | UInt8Array
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
        precision: of its layers; the model is changed in place. Embeddings are float32 in any case.
        compile: compile it now for batches of up to `max_batch`, and on a GPU record it: minutes, then no more. Where
            that fails, one warning.
        weights: SHA-256 of the model's, which each embedding then carries.
    """

    def __init__(
        self,
        model: Sam,
        arch: SegmenterArchitecture,
        device: str = "cpu",
        precision: Precision = "float32",
        compile: bool = False,
        max_batch: int = BUCKETS[-1],
        weights: str = "",
    ) -> None:
        self.weights = weights
        self.model = model.image_encoder.eval()
        lower(self.model, DTYPES[precision])
        self.model.to(device)
        self.arch = arch
        self.device = device
        self.normalises_on_device = device != "cpu"
        self._encode: Pass = partial(sam.encode_images, self.model)
        if compile:
            self._encode = self._compiled(_TOLERANCE[precision], max_batch)

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        *,
        device: str = "cpu",
        threads: int | None = None,
        precision: Precision = "float32",
        compile: bool = False,
        max_batch: int = BUCKETS[-1],
    ) -> ImageEncoder:
        """Builds the model and loads the bundle's weights; `threads` sets torch's, process-wide. Raises BundleError."""
        if threads is not None:
            torch.set_num_threads(threads)
        arch = segmenter_architecture(bundle.architecture)
        model = sam.build(arch)
        load_weights(model, bundle)
        return cls(model, arch, device, precision, compile, max_batch, weights=bundle.sha256)

    @torch.inference_mode()
    def _compiled(self, tolerance: float, max_batch: int) -> Pass:
        side = self.arch.image_size
        example = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).to(self.device)
        return Bucketed(self._encode, sam.compiled(self.model), example, tolerance=tolerance, buckets=up_to(max_batch))

    def prepare(self, image: ImageSource, key: str | None = None, region: Region | None = None) -> EncoderItem:
        """Decodes, crops, resizes and normalises (`SamPredictor.set_image`). Raises StageError for a bad image."""
        pixels = decode_region(image, region)
        image_size = (pixels.shape[0], pixels.shape[1])
        side = self.arch.image_size
        height, width = input_size(image_size, side)
        resized = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BILINEAR)
        padded = np.zeros((3, side, side), np.uint8 if self.normalises_on_device else np.float32)
        levels: UInt8Array = np.asarray(resized)
        ready = levels.transpose(2, 0, 1) if self.normalises_on_device else planes(levels, MEAN, STD)
        padded[:, :height, :width] = ready
        return EncoderItem(padded, (height, width), image_size, region, key)

    def batch_key(self, item: EncoderItem) -> None:
        """Every item has the same shape."""
        return

    def cost(self, item: EncoderItem) -> int:
        return 1

    @torch.inference_mode()
    def forward(self, batch: Sequence[EncoderItem]) -> list[Float32Array]:
        """`CxSxS` float32 features of each item."""
        images = transfer.stacked([item.pixels for item in batch], self.device)
        if images.dtype == torch.uint8:
            images = normalised(images, [item.input_size for item in batch], MEAN, STD)
        (features,) = transfer.to_host(self._encode(images))
        return list(features)

    def finish(self, item: EncoderItem, raw: Float32Array) -> Embedding:
        # A copy, so that one embedding does not keep its whole batch in memory.
        return Embedding(raw.copy(), item.input_size, item.image_size, item.region, item.key, self.weights)

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
