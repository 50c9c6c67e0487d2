"""The answer: one mask, box, label and score per instance, and its forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.errors import StageError
from pipeline.formats.answer import answer_pieces, number
from pipeline.formats.masks import AnswerForm, check_form, mask_json, read_mask
from pipeline.masks import BoolArray, decode
from pipeline.stages import RLE, Detections, DetectRequest, Float32Array, Int32Array, Masks, UInt8Array

if TYPE_CHECKING:
    from PIL.Image import Image

_STEPS = ("negatives", "nms", "area", "cap")


@dataclass(frozen=True, eq=False, slots=True)
class Result:
    """What was found in one image, best score first.

    Two results are equal if they say the same of the image: masks are compared as RLE; `id`, `image_id` and
    `timings_ms`, which differ between two runs of one request, are not compared.

    Attributes:
        image_size: `(height, width)` of the upright image.
        labels: N texts, as the caller wrote them.
        class_ids: `(N,)` int32, index of the label in the caller's list.
        scores: `(N,)` float32, the detector's: highest token probability within the label's span.
        text_scores: `(N,)` float32, mean token probability over the label's span.
        boxes: `(N, 4)` float32 xyxy, in pixels of the upright image.
        rles: N masks of the size of the image; None where no masks were asked for, as for the next two.
        mask_scores: `(N,)` float32, SAM's predicted IoU.
        areas: `(N,)` int32, mask pixels.
        model: `"detector+segmenter"`.
        id: of the request, where a service answered it.
        image_id: by which the service knows the image.
        timings_ms: milliseconds by stage, and in total.
        passes: captions that the detector ran.
        removed: detections removed by each step of the selection.
        warnings: sentences for the caller.
    """

    image_size: tuple[int, int]
    labels: tuple[str, ...]
    class_ids: Int32Array
    scores: Float32Array
    text_scores: Float32Array
    boxes: Float32Array
    rles: tuple[RLE, ...] | None
    mask_scores: Float32Array | None
    areas: Int32Array | None
    model: str
    id: str | None = None
    image_id: str | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    passes: int = 1
    removed: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(_STEPS, 0))
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result):
            return NotImplemented
        plain = ("image_size", "labels", "rles", "model", "passes", "removed", "warnings")
        arrays = ("class_ids", "scores", "text_scores", "boxes", "mask_scores", "areas")
        return all(getattr(self, name) == getattr(other, name) for name in plain) and all(
            _same(getattr(self, name), getattr(other, name)) for name in arrays
        )

    @property
    def masks(self) -> BoolArray:
        """`(N, H, W)` bool, decoded on each access: N times the image's pixels in memory; see `iter_masks`."""
        height, width = self.image_size
        masks = np.zeros((len(self), height, width), np.bool_)
        for index, mask in enumerate(self.iter_masks()):
            masks[index] = mask
        return masks

    def iter_masks(self) -> Iterator[BoolArray]:
        """The masks, each `(H, W)` bool, decoded one at a time.

        Raises:
            ValueError: no masks were asked for.
        """
        if self.rles is None:
            raise ValueError("this result has no masks: none were asked for")
        return map(decode, self.rles)

    def overlay(self, image: Image | UInt8Array) -> UInt8Array:
        """A PIL image, or `HxWx3` uint8, with masks, boxes, labels and scores drawn into it; `HxWx3` uint8.

        Raises:
            ValueError: the image has another size or type.
        """
        from pipeline.overlay import draw  # here, since drawing needs PIL and a result does not

        return draw(image, self)

    def to_json(self, masks: AnswerForm = "rle") -> dict[str, Any]:
        """The answer of `POST /v1/segment`; `id` and `image.id` only where they are known.

        Args:
            masks: `"rle"`, `"polygon"` or `"png"`, see `pipeline.formats.masks.mask_json`; `"none"`: as if no masks had
                been asked for, so `mask`, `mask_score` and `area` are None.

        Raises:
            ValueError: `masks` is none of these, whatever was found.
        """
        check_form(masks)
        return self._frame() | {"detections": list(self._detections(masks))}

    def json_pieces(self, masks: AnswerForm = "rle") -> Iterator[str]:
        """The text of `to_json`, made one detection at a time: polygons of many masks are large as Python objects.

        Raises:
            ValueError: as `to_json`, and at once, not with the first piece.
        """
        check_form(masks)
        return answer_pieces(self._frame(), self._detections(masks))

    def to_coco(self, file_name: str = "", image_id: int = 1, classes: Sequence[str] | None = None) -> dict[str, Any]:
        """A COCO dataset of this one image; see `pipeline.formats.coco`, which also joins many results."""
        from pipeline.formats.coco import to_coco

        return to_coco(self, file_name, image_id, classes)

    def to_labelme(
        self,
        image_path: str = "",
        image_data: bytes | None = None,
        form: Literal["polygon", "mask"] = "polygon",
        tolerance: float = 0.0,
    ) -> dict[str, Any]:
        """What LabelMe saves beside an image; see `pipeline.formats.labelme`."""
        from pipeline.formats.labelme import to_labelme

        return to_labelme(self, image_path, image_data, form, tolerance)

    def to_label_studio(
        self,
        image: str,
        *,
        brush: str | None = None,
        polygon: str | None = None,
        rectangle: str | None = None,
        to_name: str = "image",
    ) -> dict[str, Any]:
        """A Label Studio task with one prediction; see `pipeline.formats.label_studio`."""
        from pipeline.formats.label_studio import to_label_studio

        return to_label_studio(self, image, brush=brush, polygon=polygon, rectangle=rectangle, to_name=to_name)

    def to_supervision(self, compact: bool = False) -> Any:
        """`supervision.Detections`; see `pipeline.formats.supervision`."""
        from pipeline.formats.supervision import to_supervision

        return to_supervision(self, compact)

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
            "passes": self.passes,
            "removed": dict(self.removed),
            "warnings": list(self.warnings),
        }

    def _detections(self, form: AnswerForm) -> Iterator[dict[str, Any]]:
        if form == "none":
            yield from replace(self, rles=None, mask_scores=None, areas=None)._detections("rle")
            return
        for index, label in enumerate(self.labels):
            yield {
                "class_id": int(self.class_ids[index]),
                "label": label,
                "score": number(self.scores[index]),
                "text_score": number(self.text_scores[index]),
                "box": [number(side) for side in self.boxes[index]],
                "mask": None if self.rles is None else mask_json(self.rles[index], form),
                "mask_score": None if self.mask_scores is None else number(self.mask_scores[index]),
                "area": None if self.areas is None else int(self.areas[index]),
            }

    @staticmethod
    def from_json(answer: Mapping[str, Any]) -> Result:
        """Read an answer of `POST /v1/segment` or `/v1/detect`; the inverse of `to_json`, whatever form its masks have;
        after `"none"` it has none.

        Raises:
            ValueError: the answer is of another shape, or its polygons or PNGs are damaged. (Damaged run lengths show
                when a mask is decoded.)
        """
        try:
            return _read(answer)
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError, StageError) as error:
            raise ValueError("this is no answer to a segment or detect request") from error


def assemble(
    request: DetectRequest,
    kept: Detections,
    removed: dict[str, int],
    masks: Masks | None,
    *,
    model: str,
    timings_ms: dict[str, float],
) -> Result:
    """The answer, from what the stages returned; `masks` is None where none were asked for."""
    labels = {one.class_id: one.label for one in request.classes}
    return Result(
        image_size=kept.size,
        labels=tuple(labels[int(class_id)] for class_id in kept.class_ids),
        class_ids=kept.class_ids,
        scores=kept.scores,
        text_scores=kept.text_scores,
        boxes=kept.boxes,
        rles=None if masks is None else masks.rles,
        mask_scores=None if masks is None else masks.mask_scores,
        areas=None if masks is None else masks.areas,
        model=model,
        timings_ms=timings_ms,
        passes=kept.passes,
        removed=removed,
        warnings=kept.warnings,
    )


def _read(answer: Mapping[str, Any]) -> Result:
    found = answer["detections"]
    # Without detections nothing tells whether masks were asked for; an empty list of masks serves either.
    masked = not found or any(item["mask"] is not None for item in found)
    return Result(
        image_size=(int(answer["image"]["height"]), int(answer["image"]["width"])),
        labels=tuple(item["label"] for item in found),
        class_ids=np.array([int(item["class_id"]) for item in found], np.int32),
        scores=np.array([float(item["score"]) for item in found], np.float32),
        text_scores=np.array([float(item["text_score"]) for item in found], np.float32),
        boxes=np.array([item["box"] for item in found], np.float32).reshape(-1, 4),
        rles=tuple(read_mask(item["mask"]) for item in found) if masked else None,
        mask_scores=np.array([float(item["mask_score"]) for item in found], np.float32) if masked else None,
        areas=np.array([int(item["area"]) for item in found], np.int32) if masked else None,
        model=answer["model"],
        id=answer.get("id"),
        image_id=answer["image"].get("id"),
        timings_ms=dict(answer["timings_ms"]),
        passes=answer["passes"],
        removed=dict(answer["removed"]),
        warnings=tuple(answer["warnings"]),
    )


def _same(a: Any, b: Any) -> bool:
    return (a is None) == (b is None) and (a is None or np.array_equal(a, b))
