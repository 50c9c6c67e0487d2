"""The interface of LangSAM, versions 1 and 2, for code that was written for it. No torch until a model is built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from pipeline.bundle import BundleError, resolve, split_model_name
from pipeline.masks import BoolArray
from pipeline.models.registry import CHECKPOINTS, EMBEDDED_NAME, Checkpoint, Kind, absence, find
from pipeline.pictures import as_stored
from pipeline.prompt import Prompt
from pipeline.result import Result
from pipeline.stages import Float32Array

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.text_to_mask import AnyImage, TextToMask

_DETECTOR, _SEGMENTER = "swinb", "vit_h"  # what LangSAM puts before every SAM; the SAM that version 1 takes
_SAM2 = re.compile(r"sam[-_. ]?2|hiera", re.IGNORECASE)
_MOST = 1000  # LangSAM has no cap; this is the service's largest


class LangSAM:
    """Words in, masks out, with LangSAM's arguments and answers.

    What differs: `"car, wheel"` are two classes; `phrases` and `labels` are the caller's own words; of two boxes of one
    class that overlap by more than 0.7 the better stays; the best comes first; nothing found is empty arrays of the
    usual shapes; nothing is fetched. A PIL image is looked at upright; its boxes and masks fit the image as given.

    Args:
        sam_type: `"vit_b"`, `"vit_l"` or `"vit_h"`, with the detector that LangSAM takes; `"tiny"`, which comes along;
            `"DETECTOR+SEGMENTER"`; a segmenter's bundle folder; or a `TextToMask` that is loaded already.
        ckpt_path: the segmenter's weight file, under its published name, or its bundle folder.
        return_prompts: LangSAM's switch from fragments of the text to whole classes. Here they are always whole.
        detector: a registry name or a bundle folder, in place of the one that goes with `sam_type`.
        device: of torch; CUDA where there is, if None.

    Raises:
        BundleError: a ValueError; the model is unknown, of SAM 2, not on this machine, or not what its hash says.
    """

    def __init__(
        self,
        sam_type: str | Path | TextToMask = _SEGMENTER,
        ckpt_path: str | Path | None = None,
        return_prompts: bool = False,
        *,
        detector: str | Path | None = None,
        device: str | None = None,
    ) -> None:
        self.return_prompts = return_prompts
        if isinstance(sam_type, (str, Path)):
            self.model = _load(sam_type, ckpt_path, detector, device)
            self.sam_type = str(sam_type)
        else:
            self.model, self.sam_type = sam_type, sam_type.name

    @overload
    def predict(
        self,
        image_pil: AnyImage,
        text_prompt: Prompt,
        box_threshold: float | None = None,
        text_threshold: float | None = None,
    ) -> tuple[Tensor, Tensor, list[str], Tensor]: ...

    @overload
    def predict(
        self,
        image_pil: list[Any] | tuple[Any, ...],
        text_prompt: list[str] | tuple[str, ...],
        box_threshold: float | None = None,
        text_threshold: float | None = None,
    ) -> list[dict[str, Any]]: ...

    @overload
    def predict(
        self,
        *,
        images_pil: list[Any] | tuple[Any, ...],
        texts_prompt: list[str] | tuple[str, ...],
        box_threshold: float | None = None,
        text_threshold: float | None = None,
    ) -> list[dict[str, Any]]: ...

    def predict(
        self,
        image_pil: Any = None,
        text_prompt: Any = None,
        box_threshold: float | None = None,
        text_threshold: float | None = None,
        *,
        images_pil: Any = None,
        texts_prompt: Any = None,
    ) -> Any:
        """Version 1 for one image and one text; version 2 for a list of images and a list of as many texts.

        Args:
            image_pil: a PIL image, or whatever `TextToMask.predict` takes; or a list of those.
            text_prompt: `"car, wheel"`; or a list, one text an image.
            box_threshold, text_threshold: the model's own if None: 0.3 and 0.25, as LangSAM's, for the official ones.

        Returns:
            v1: `masks (N,H,W)` bool, `boxes (N,4)` float32 xyxy, `phrases`, a list of N texts, `logits (N,)` float32,
            as torch tensors on the CPU.
            v2: for each image a dict of arrays: `boxes (N,4)` float32 xyxy, `scores (N,)` float32, `labels`, a list of
            N texts, `masks (N,H,W)` float32 of 0 and 1, and `mask_scores (N,)` float32.
            With nothing found, N is 0.

        Raises:
            StageError: an image, a text or a threshold is refused.
            ValueError: not as many texts as images.
        """
        images = image_pil if images_pil is None else images_pil
        texts = text_prompt if texts_prompt is None else texts_prompt
        if isinstance(images, (list, tuple)):
            if not isinstance(texts, (list, tuple)) or len(texts) != len(images):
                raise ValueError("a list of images needs a list of as many texts: predict([image], ['car, wheel'])")
            pairs = zip(images, texts, strict=True)
            return [self._version_2(image, text, box_threshold, text_threshold) for image, text in pairs]
        import torch

        result, boxes, masks = self._found(images, texts, box_threshold, text_threshold)
        logits = torch.from_numpy(result.scores.copy())
        return torch.from_numpy(masks), torch.from_numpy(boxes), list(result.labels), logits

    def _version_2(
        self, image: Any, text: Any, box_threshold: float | None, text_threshold: float | None
    ) -> dict[str, Any]:
        result, boxes, masks = self._found(image, text, box_threshold, text_threshold)
        return {
            "boxes": boxes,
            "scores": result.scores,
            "labels": list(result.labels),
            "masks": masks.astype(np.float32),
            "mask_scores": result.mask_scores,
        }

    def _found(
        self, image: Any, text: Any, box_threshold: float | None, text_threshold: float | None
    ) -> tuple[Result, Float32Array, BoolArray]:
        """The result, and its boxes and masks in the frame of the image as it was given."""
        result = self.model.predict(
            image, text, box_threshold=box_threshold, text_threshold=text_threshold, max_detections=_MOST
        )
        return (result, *as_stored(image, result.boxes, result.masks))


def _load(
    sam_type: str | Path, ckpt_path: str | Path | None, detector: str | Path | None, device: str | None
) -> TextToMask:
    first, segmenter = _parts(sam_type)
    known = CHECKPOINTS.get(str(segmenter))
    if known is None:
        resolve(segmenter, "segmenter")  # a name that is none is said so, even where a file is given, too
    if ckpt_path is not None:
        found = resolve(ckpt_path, "segmenter")
        if known is not None and found.architecture != known.architecture:
            raise BundleError(f"{ckpt_path} is not a {known.name}: sam_type and ckpt_path must go together.")
        segmenter = ckpt_path
    first = first if detector is None else detector
    _check(first, segmenter)
    import torch

    from pipeline.text_to_mask import TextToMask

    return TextToMask.from_pretrained(
        detector=first, segmenter=segmenter, device=device or ("cuda" if torch.cuda.is_available() else "cpu")
    )


def _check(detector: str | Path, segmenter: str | Path) -> None:
    """Raises BundleError: for the segmenter's name, the one that users write, then the detector's; then for weights."""
    absent: list[Checkpoint] = []
    parts: tuple[tuple[str | Path, Kind], ...] = ((segmenter, "segmenter"), (detector, "detector"))
    for part, kind in parts:
        known = CHECKPOINTS.get(part) if isinstance(part, str) else None
        if known is not None and known.kind == kind and find(known) is None:
            absent.insert(0, known)
        else:
            resolve(part, kind)
    if absent:
        tiny = f'To try the interface on drawn shapes, LangSAM("{EMBEDDED_NAME}") runs without any download.'
        raise BundleError(f"{absence(*absent)} {tiny}")


def _parts(sam_type: str | Path) -> tuple[str | Path, str | Path]:
    """Detector and segmenter. A name goes before a file that is called like it."""
    if sam_type == EMBEDDED_NAME:
        return EMBEDDED_NAME, EMBEDDED_NAME
    if isinstance(sam_type, str) and sam_type not in CHECKPOINTS and not Path(sam_type).exists():
        if _SAM2.search(sam_type):
            raise BundleError(f"{sam_type!r} is a SAM 2, which has no equivalent here. There are vit_b, vit_l, vit_h.")
        if "+" in sam_type:
            return split_model_name(sam_type)
    return _DETECTOR, sam_type
