"""The three stages without models or Ray: answers by rule, failures by script, a log of the calls."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from io import BytesIO
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from pipeline.errors import StageError
from pipeline.image import decode
from pipeline.masks import encode
from pipeline.stages import DecodeOptions, Detections, DetectRequest, Embedding, MaskPrompts, Masks, Region

T = TypeVar("T")


class LocalCall(Generic[T]):
    """A call as an asyncio task."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self.task = asyncio.ensure_future(work)
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())  # "never retrieved" is fine

    def __await__(self) -> Generator[Any, None, T]:
        return self.task.__await__()

    async def ready(self) -> None:
        await asyncio.wait({self.task})

    def cancel(self) -> None:
        self.task.cancel()


class FakeStages:
    """Finds one box for each class, left to right, but none for a text that begins with `nothing`.

    The mask of a prompt is its box, or else the 4x4 pixels around each foreground point; the second of three
    alternatives is one pixel smaller on each side, the third is empty. Logits are 12x12 of the predicted IoU.

    Args:
        failures: for each stage, what its first calls raise; None for a call that succeeds.
        gate: awaited by every stage before it answers, by name.
    """

    def __init__(
        self,
        failures: Mapping[str, Sequence[Exception | None]] | None = None,
        gate: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        self.calls: list[str] = []
        self.finished: list[str] = []
        self.cancelled: list[str] = []
        self.requests: list[DetectRequest] = []
        self.prompts: list[MaskPrompts] = []
        self.kept: dict[str, bytes] = {}
        self._failures = {stage: list(script) for stage, script in (failures or {}).items()}
        self._gate = gate

    def hold(self, image: bytes) -> bytes:
        self.calls.append("hold")
        return image

    def detect(self, image: bytes, request: DetectRequest, deadline: float | None) -> LocalCall[Detections]:
        self.requests.append(request)

        def answer() -> Detections:
            height, width = decode(image).shape[:2]
            texts = [named for named in request.classes if not named.text.startswith("nothing")]
            step = width / max(1, len(texts))
            boxes = [[index * step, 0, (index + 1) * step, height] for index in range(len(texts))]
            scores = np.linspace(0.9, 0.5, len(texts), dtype=np.float32)
            return Detections(
                boxes=np.array(boxes, np.float32).reshape(-1, 4),
                scores=scores,
                text_scores=scores - np.float32(0.1),
                class_ids=np.array([named.class_id for named in texts], np.int32),
                size=(height, width),
                warnings=("a warning",),
            )

        return LocalCall(self._stage("detect", answer))

    def encode(
        self, image: bytes, key: str | None, region: Region | None, deadline: float | None
    ) -> LocalCall[Embedding]:
        if key is not None:
            self.kept[key] = image

        def answer() -> Embedding:
            height, width = decode(image).shape[:2]
            return Embedding(np.zeros((2, 3, 3), np.float32), (3, 3), (height, width))

        return LocalCall(self._stage("encode", answer))

    def recall(self, key: str) -> LocalCall[bytes]:
        def answer() -> bytes:
            if key not in self.kept:
                raise StageError("image_not_cached", "gone", "image.value")
            return self.kept[key]

        return LocalCall(self._stage("recall", answer))

    def decode(
        self, embedding: LocalCall[Embedding], prompts: MaskPrompts, options: DecodeOptions, deadline: float | None
    ) -> LocalCall[Masks]:
        self.prompts.append(prompts)

        async def after_embedding() -> Masks:
            size = (await embedding).image_size
            return await self._stage("decode", lambda: _masks(prompts, options, size))

        return LocalCall(after_embedding())

    async def _stage(self, name: str, answer: Callable[[], T]) -> T:
        self.calls.append(name)
        script = self._failures.get(name)
        failure = script.pop(0) if script else None
        try:
            if self._gate is not None:
                await self._gate(name)
            if failure is not None:
                raise failure
            value = answer()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        self.finished.append(name)
        return value


def _masks(prompts: MaskPrompts, options: DecodeOptions, size: tuple[int, int]) -> Masks:
    count = 3 if options.multimask and options.alternatives else 1
    each = [_masks_of_one(_windows(prompts, number), options, size, count) for number in range(len(prompts))]
    return Masks(
        rles=tuple(one.rles[0] for one in each),
        mask_scores=np.array([one.mask_scores[0] for one in each], np.float32),
        areas=np.array([one.areas[0] for one in each], np.int32),
        low_res=np.stack([one.low_res[0] for one in each if one.low_res is not None]) if options.low_res else None,
        alternatives=tuple(each) if count > 1 else None,
    )


def _windows(prompts: MaskPrompts, number: int) -> list[tuple[float, ...]]:
    if prompts.boxes is not None:
        return [tuple(prompts.boxes[number].tolist())]
    assert prompts.points is not None
    return [(x - 2, y - 2, x + 2, y + 2) for x, y, label in prompts.points[number].tolist() if label == 1]


def _masks_of_one(windows: list[tuple[float, ...]], options: DecodeOptions, size: tuple[int, int], count: int) -> Masks:
    masks = np.zeros((count, *size), np.bool_)
    for smaller in range(min(count, 2)):
        for x0, y0, x1, y1 in windows:
            rows = slice(max(0, round(y0) + smaller), max(0, round(y1) - smaller))
            masks[smaller, rows, max(0, round(x0) + smaller) : max(0, round(x1) - smaller)] = True
    scores = np.array([0.95, 0.75, 0.5], np.float32)[:count]
    return Masks(
        tuple(encode(mask) for mask in masks),
        scores,
        masks.sum((1, 2)).astype(np.int32),
        np.tile(scores[:, None, None], (1, 12, 12)) if options.low_res else None,
    )


def picture(size: tuple[int, int] = (20, 30), form: str = "PNG", mode: str = "RGB") -> bytes:
    """An encoded picture of `(height, width)`."""
    buffer = BytesIO()
    Image.new(mode, size[::-1]).save(buffer, form)
    return buffer.getvalue()


def base64(data: bytes) -> dict[str, str]:
    """`data` as the `image` of a JSON request."""
    return {"type": "base64", "value": b64encode(data).decode()}
