"""The answer to boxes and points: one mask for each prompt, and its forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.errors import StageError
from pipeline.formats.answer import answer_pieces, number
from pipeline.formats.low_res import Float16Array, half, low_res_json, read_low_res
from pipeline.formats.masks import AnswerForm, check_form, mask_json, read_mask
from pipeline.masks import BoolArray, decode, decode_crop
from pipeline.stages import RLE, Float32Array, Int32Array, MaskPrompts, Masks


@dataclass(frozen=True, eq=False, slots=True)
class MaskResult:
    """One mask for each prompt, in their order.

    Two results are equal if they say the same of the image: `id`, `image_id` and `timings_ms` are not compared.

    Attributes:
        image_size: `(height, width)` of the upright image.
        boxes: `(N, 4)` float32 xyxy in pixels of the upright image: the prompt's, clipped to the image; without one,
            the mask's bounding box, and NaN where the mask is empty.
        rles: N masks of the size of the image.
        mask_scores: `(N,)` float32, SAM's predicted IoU.
        areas: `(N,)` int32, mask pixels.
        model: `"detector+segmenter"`.
        low_res: `(N, L, L)` float16 logits for a `mask_input`, where asked for.
        alternatives: with `multimask`, SAM's three masks of each prompt, best first; the first is the one in `rles`.
        id: of the request, where a service answered it.
        image_id: by which the service knows the image.
        timings_ms: milliseconds by stage, and in total.
        warnings: sentences for the caller.
    """

    image_size: tuple[int, int]
    boxes: Float32Array
    rles: tuple[RLE, ...]
    mask_scores: Float32Array
    areas: Int32Array
    model: str
    low_res: Float16Array | None = None
    alternatives: tuple[MaskResult, ...] | None = None
    id: str | None = None
    image_id: str | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rles)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MaskResult):
            return NotImplemented
        plain = ("image_size", "rles", "model", "alternatives", "warnings")
        return (
            all(getattr(self, name) == getattr(other, name) for name in plain)
            and np.array_equal(self.boxes, other.boxes, equal_nan=True)
            and np.array_equal(self.mask_scores, other.mask_scores)
            and np.array_equal(self.areas, other.areas)
            and (self.low_res is None) == (other.low_res is None)
            and (self.low_res is None or other.low_res is None or np.array_equal(self.low_res, other.low_res))
        )

    @property
    def masks(self) -> BoolArray:
        """`(N, H, W)` bool, decoded on each access: N times the image's pixels in memory; see `iter_masks`."""
        masks = np.zeros((len(self), *self.image_size), np.bool_)
        for index, mask in enumerate(self.iter_masks()):
            masks[index] = mask
        return masks

    def iter_masks(self) -> Iterator[BoolArray]:
        """The masks, each `(H, W)` bool, decoded one at a time."""
        return map(decode, self.rles)

    def to_json(self, masks: AnswerForm = "rle") -> dict[str, Any]:
        """The answer of `POST /v1/masks`; `id` and `image.id` only where they are known.

        Args:
            masks: `"rle"`, `"polygon"` or `"png"`, see `pipeline.formats.masks.mask_json`; `"none"`: `mask` is None,
                all else is there.

        Raises:
            ValueError: `masks` is none of these, whatever was asked for.
        """
        check_form(masks)
        return self._frame() | {"detections": list(self._detections(masks))}

    def json_pieces(self, masks: AnswerForm = "rle") -> Iterator[str]:
        """The text of `to_json`, made one detection at a time. Raises ValueError as `to_json`, and at once."""
        check_form(masks)
        return answer_pieces(self._frame(), self._detections(masks))

    @staticmethod
    def from_json(answer: Mapping[str, Any]) -> MaskResult:
        """Read an answer of `POST /v1/masks`; the inverse of `to_json`, but for masks `"none"`.

        Raises:
            ValueError: the answer is of another shape.
        """
        try:
            size = (int(answer["image"]["height"]), int(answer["image"]["width"]))
            return _read(answer, size, answer["model"], answer["detections"])
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError, StageError) as error:
            raise ValueError("this is no answer to a masks request") from error

    def _frame(self) -> dict[str, Any]:
        """The answer without its detections."""
        height, width = self.image_size
        answer: dict[str, Any] = {} if self.id is None else {"id": self.id}
        known = {} if self.image_id is None else {"id": self.image_id}
        return answer | {
            "model": self.model,
            "image": known | {"width": width, "height": height},
            "detections": [],
            "timings_ms": dict(self.timings_ms),
            "warnings": list(self.warnings),
        }

    def _detections(self, form: AnswerForm) -> Iterator[dict[str, Any]]:
        for index, (rle, box) in enumerate(zip(self.rles, self.boxes, strict=True)):
            found: dict[str, Any] = {
                "box": None if np.isnan(box[0]) else [number(side) for side in box],
                "mask": None if form == "none" else mask_json(rle, form),
                "mask_score": number(self.mask_scores[index]),
                "area": int(self.areas[index]),
            }
            if self.low_res is not None:
                found["low_res"] = low_res_json(self.low_res[index])
            if self.alternatives is not None:
                found["alternatives"] = list(self.alternatives[index]._detections(form))
            yield found


def assemble_masks(
    prompts: MaskPrompts, masks: Masks, size: tuple[int, int], *, model: str, warnings: tuple[str, ...] = ()
) -> MaskResult:
    """The answer to `prompts`, which lie inside an image of `size` `(height, width)`, from what the decoder made."""

    def result(boxes: Float32Array | None, of: Masks, alternatives: tuple[MaskResult, ...] | None) -> MaskResult:
        return MaskResult(
            image_size=size,
            boxes=np.array([bounding_box(rle) for rle in of.rles], np.float32) if boxes is None else boxes,
            rles=of.rles,
            mask_scores=of.mask_scores,
            areas=of.areas,
            model=model,
            low_res=None if of.low_res is None else half(of.low_res),
            alternatives=alternatives,
            warnings=() if of is not masks else warnings,
        )

    if masks.alternatives is None:
        return result(prompts.boxes, masks, None)
    boxes = [None] * len(prompts) if prompts.boxes is None else [np.tile(box, (3, 1)) for box in prompts.boxes]
    return result(
        prompts.boxes, masks, tuple(result(*both, None) for both in zip(boxes, masks.alternatives, strict=True))
    )


def bounding_box(rle: RLE) -> tuple[float, float, float, float]:
    """`x0, y0, x1, y1` around a mask's pixels, from edge to edge; NaN for an empty mask."""
    window, (y0, x0) = decode_crop(rle)
    if not window.size:
        return (np.nan, np.nan, np.nan, np.nan)
    return (x0, y0, x0 + window.shape[1], y0 + window.shape[0])


def _read(answer: Mapping[str, Any], size: tuple[int, int], model: str, found: list[Mapping[str, Any]]) -> MaskResult:
    def all_of(name: str) -> bool:
        return bool(found) and all(name in item for item in found)

    return MaskResult(
        image_size=size,
        boxes=np.array([item["box"] or [np.nan] * 4 for item in found], np.float32).reshape(-1, 4),
        rles=tuple(read_mask(item["mask"]) for item in found),
        mask_scores=np.array([float(item["mask_score"]) for item in found], np.float32),
        areas=np.array([int(item["area"]) for item in found], np.int32),
        model=model,
        low_res=np.stack([read_low_res(item["low_res"]) for item in found]) if all_of("low_res") else None,
        alternatives=tuple(_read({}, size, model, item["alternatives"]) for item in found)
        if all_of("alternatives")
        else None,
        id=answer.get("id"),
        image_id=answer.get("image", {}).get("id"),
        timings_ms=dict(answer.get("timings_ms", {})),
        warnings=tuple(answer.get("warnings", ())),
    )
