"""What goes into SAM's mask decoder and comes out of it, and how prompts are brought into its frame. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import StageError
from pipeline.models.architectures import SegmenterArchitecture
from pipeline.stages import DecodeOptions, Embedding, Float32Array, MaskPrompts, UInt8Array


@dataclass(frozen=True, slots=True)
class Prompt:
    """One instance's prompt in the model's input frame: points `Px3`, box `(4,)`, mask `4Sx4S`, each or None."""

    points: Float32Array | None
    box: Float32Array | None
    mask: Float32Array | None

    @property
    def layout(self) -> tuple[int, bool, bool]:
        """Prompts of one layout make one rectangular batch; padding with empty points would change the answer."""
        return (0 if self.points is None else len(self.points), self.box is not None, self.mask is not None)


@dataclass(frozen=True, slots=True)
class DecoderItem:
    """One image's prompts, ready for the model."""

    embedding: Embedding
    prompts: tuple[Prompt, ...]
    options: DecodeOptions
    deadline: float | None = None

    @property
    def depth(self) -> int:
        """Masks to return for each prompt."""
        return 3 if self.options.multimask and self.options.alternatives else 1


@dataclass(frozen=True, slots=True)
class LowResolution:
    """The model's answer, best mask first; K is 1, or 3 where alternatives are asked for.

    Attributes:
        logits: `NxKx4Sx4S`; None where only `bits` are wanted.
        scores: `NxK` predicted IoUs.
        bits: `NxKx...` uint8, of `sam_upsampling.packed`, where a device has made the masks; else None.
    """

    logits: Float32Array | None
    scores: Float32Array
    bits: UInt8Array | None = None


def decoder_item(
    embedding: Embedding,
    prompts: MaskPrompts,
    options: DecodeOptions,
    deadline: float | None,
    arch: SegmenterArchitecture,
) -> DecoderItem:
    """`pipeline.mask_decoder.MaskDecoder.prepare`."""
    side = arch.embedding_size
    if embedding.features.shape != (arch.out_chans, side, side):
        raise StageError("internal", "the embedding is another model's")
    scale = np.array(
        [embedding.input_size[1] / embedding.image_size[1], embedding.input_size[0] / embedding.image_size[0]],
        np.float64,
    )
    count = len(prompts)
    boxes, points, masks = prompts.boxes, prompts.points, prompts.mask_inputs
    if boxes is None and points is None:
        raise StageError("invalid_value", "boxes or points must be given", "boxes")
    if boxes is not None and boxes.shape != (count, 4):
        raise StageError("invalid_value", "boxes must be Nx4", "boxes")
    if points is not None and (len(points) != count or any(p.ndim != 2 or p.shape[1] != 3 for p in points)):
        raise StageError("invalid_value", "points must be one Px3 list for each instance", "points")
    if boxes is None and points is not None and not all(map(len, points)):
        raise StageError("invalid_value", "an instance without a box needs a point", "points")
    if masks is not None and masks.shape != (count, 4 * side, 4 * side):
        raise StageError("invalid_value", f"mask_input must be Nx{4 * side}x{4 * side}", "mask_input")
    return DecoderItem(
        embedding,
        tuple(
            Prompt(
                points=None if points is None or not len(points[i]) else _scaled_points(points[i], scale),
                box=None if boxes is None else (boxes[i].reshape(2, 2) * scale).reshape(4).astype(np.float32),
                mask=None if masks is None else masks[i],
            )
            for i in range(count)
        ),
        options,
        deadline,
    )


def _scaled_points(points: Float32Array, scale: Any) -> Float32Array:
    return np.concatenate((points[:, :2] * scale, points[:, 2:]), 1).astype(np.float32)
