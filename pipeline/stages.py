"""What the three stages take and return. No torch: the service's ingress and the client read these too.

Boxes are `xyxy` float32 in pixels of the upright image (of the region, where one is given); sizes are
`(height, width)`; a deadline is Unix time in seconds, or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.errors import StageError
from pipeline.scalars import fraction, integer

Float32Array = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]
UInt8Array = npt.NDArray[np.uint8]

Input = TypeVar("Input", contravariant=True)
Raw = TypeVar("Raw")
Output = TypeVar("Output", covariant=True)
Item = TypeVar("Item")
Whole = TypeVar("Whole")

ImageSource = bytes | UInt8Array
"""Encoded JPEG, PNG or WebP bytes; or, in process, an upright `HxWx3` uint8 RGB array."""

Region = tuple[int, int, int, int]
"""`(x0, y0, x1, y1)` in pixels of the upright image, end-exclusive."""


@dataclass(frozen=True, slots=True)
class TextClass:
    """One class to look for.

    Attributes:
        class_id: index in the caller's list (of negatives, for a negative).
        label: the caller's own text, stripped: what the answer shows.
        text: the normalised text that enters the caption.
        box_threshold: this class's own box threshold, or None for the request's.
    """

    class_id: int
    label: str
    text: str
    box_threshold: float | None = None


@dataclass(frozen=True, slots=True)
class DetectRequest:
    """What to look for. A threshold of None means the bundle's own default.

    `negatives` are classes whose boxes remove others; they come back with `class_ids` of `-1 - class_id`.
    `top_k` asks for raw mode: no thresholds, but the best k pairs of a box and a class by mean token probability.
    Numbers may be NumPy's; they become Python's. Raises StageError `invalid_value` for another type, a threshold
    outside 0 to 1, or a `top_k` below 1 or beside negatives.
    """

    classes: tuple[TextClass, ...]
    negatives: tuple[TextClass, ...] = ()
    box_threshold: float | None = None
    text_threshold: float | None = None
    region: Region | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        for name in ("box_threshold", "text_threshold"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, fraction(getattr(self, name), name))
        if self.top_k is None:
            return
        object.__setattr__(self, "top_k", integer(self.top_k, "max_detections"))
        if self.top_k < 1:
            raise StageError("invalid_value", "must be at least 1", "max_detections")
        if self.negatives:
            raise StageError("invalid_value", "raw mode has no thresholds, so a negative would match anything", "raw")


@dataclass(frozen=True, slots=True)
class Detections:
    """Candidate boxes: labelled and thresholded, before negatives, NMS, area and cap.

    Attributes:
        boxes: `(N, 4)` float32 xyxy.
        scores: `(N,)` float32, highest token probability within the class's span.
        text_scores: `(N,)` float32, mean token probability over the class's span.
        class_ids: `(N,)` int32; negatives are `-1 - class_id`.
        size: `(height, width)` of the image or region that `boxes` refer to.
        passes: captions that were run.
        warnings: sentences for the caller.
    """

    boxes: Float32Array
    scores: Float32Array
    text_scores: Float32Array
    class_ids: Int32Array
    size: tuple[int, int]
    passes: int = 1
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, index: npt.NDArray[Any]) -> Detections:
        """The rows that `index` (integers or a boolean mask) names, in its order."""
        return Detections(
            self.boxes[index],
            self.scores[index],
            self.text_scores[index],
            self.class_ids[index],
            self.size,
            self.passes,
            self.warnings,
        )


@dataclass(frozen=True, slots=True)
class Embedding:
    """The image encoder's output for one image or region.

    Attributes:
        features: `(C, S, S)` float32, 256x64x64 for the official models.
        input_size: `(height, width)` of the resized image inside the square model input.
        image_size: `(height, width)` of the image or region that was encoded.
        region: the region, or None for the whole image.
        key: the caller's cache key.
        weights: SHA-256 of those that made it, lower-case hex; empty where nobody said.
    """

    features: Float32Array
    input_size: tuple[int, int]
    image_size: tuple[int, int]
    region: Region | None = None
    key: str | None = None
    weights: str = ""


@dataclass(frozen=True, slots=True)
class RLE:
    """A COCO compressed run-length mask: `size` is `(height, width)`, `counts` is ASCII, column-major."""

    size: tuple[int, int]
    counts: str


@dataclass(frozen=True, slots=True)
class MaskPrompts:
    """One prompt an instance.

    Attributes:
        boxes: `(N, 4)` float32 xyxy, or None.
        points: N arrays `(P, 3)` float32 of `x, y, label` (1 foreground, 0 background), or None.
        mask_inputs: `(N, 4S, 4S)` float32 low-resolution logits of an earlier answer, or None.
    """

    boxes: Float32Array | None = None
    points: tuple[Float32Array, ...] | None = None
    mask_inputs: Float32Array | None = None

    def __len__(self) -> int:
        for prompts in (self.boxes, self.points):
            if prompts is not None:
                return len(prompts)
        return 0


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """`multimask`: best of SAM's three masks by predicted IoU, instead of the single one; `alternatives`: with it, also
    return all three. `low_res`: return logits."""

    multimask: bool = False
    low_res: bool = False
    alternatives: bool = False


@dataclass(frozen=True, slots=True)
class Masks:
    """Finished masks of one image, one a prompt, in the order of the prompts.

    Attributes:
        rles: N masks, each `H x W` of the image or region.
        mask_scores: `(N,)` float32, SAM's predicted IoU.
        areas: `(N,)` int32, mask pixels.
        low_res: `(N, 4S, 4S)` float32 logits where asked for, else None.
        alternatives: for each prompt SAM's three masks by falling predicted IoU, where asked for, else None.
    """

    rles: tuple[RLE, ...]
    mask_scores: Float32Array
    areas: Int32Array = field(default_factory=lambda: np.zeros(0, np.int32))
    low_res: Float32Array | None = None
    alternatives: tuple[Masks, ...] | None = None

    @classmethod
    def empty(cls) -> Masks:
        """Those of an image in which nothing was found."""
        return cls((), np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self.rles)


class Stage(Protocol[Input, Raw, Output]):
    """A stage's model, split so that CPU work stays off the model thread.

    `finish` handles one item and is thread-safe; `forward` runs a batch of items that share a `batch_key` and is
    entered by one thread at a time. `cost` is an item's share of `max_batch_cost`. How an item is made differs from
    stage to stage: each has a thread-safe method of its own for it, and hands over items.
    """

    def batch_key(self, item: Input) -> object: ...

    def cost(self, item: Input) -> int: ...

    def forward(self, batch: Sequence[Input]) -> list[Raw]: ...

    def finish(self, item: Input, raw: Raw) -> Output: ...


@runtime_checkable
class Splittable(Protocol[Item, Whole]):
    """A stage whose items can be run in parts, so that a large one neither blocks others nor outlives its caller.

    `split` gives items of at most `max_cost` each (of as much as needs little memory, for None), and `merge` makes the
    output of the item from those of all its parts, in their order. One part is the item itself.
    """

    def split(self, item: Item, max_cost: int | None) -> Sequence[Item]: ...

    def merge(self, item: Item, parts: Sequence[Whole]) -> Whole: ...
