"""The three stages without models or Ray: answers by rule, failures by script, a log of the calls."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from io import BytesIO
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

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
    """Finds one box for each class, left to right, but none for the text `nothing`; masks are the boxes.

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
        self._failures = {stage: list(script) for stage, script in (failures or {}).items()}
        self._gate = gate

    def hold(self, image: bytes) -> bytes:
        self.calls.append("hold")
        return image

    def detect(self, image: bytes, request: DetectRequest, deadline: float | None) -> LocalCall[Detections]:
        self.requests.append(request)

        def answer() -> Detections:
            height, width = decode(image).shape[:2]
            texts = [named for named in request.classes if named.text != "nothing"]
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
        def answer() -> Embedding:
            height, width = decode(image).shape[:2]
            return Embedding(np.zeros((2, 3, 3), np.float32), (3, 3), (height, width))

        return LocalCall(self._stage("encode", answer))

    def decode(
        self, embedding: LocalCall[Embedding], prompts: MaskPrompts, options: DecodeOptions, deadline: float | None
    ) -> LocalCall[Masks]:
        async def after_embedding() -> Masks:
            size = (await embedding).image_size
            return await self._stage("decode", lambda: _box_masks(prompts, size))

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


def _box_masks(prompts: MaskPrompts, size: tuple[int, int]) -> Masks:
    assert prompts.boxes is not None
    rles, areas = [], []
    for x0, y0, x1, y1 in prompts.boxes:
        mask = np.zeros(size, np.bool_)
        mask[round(float(y0)) : round(float(y1)), round(float(x0)) : round(float(x1))] = True
        rles.append(encode(mask))
        areas.append(int(mask.sum()))
    return Masks(tuple(rles), np.full(len(rles), 0.95, np.float32), np.array(areas, np.int32))


def picture(size: tuple[int, int] = (20, 30), form: str = "PNG", mode: str = "RGB") -> bytes:
    """An encoded picture of `(height, width)`."""
    buffer = BytesIO()
    Image.new(mode, size[::-1]).save(buffer, form)
    return buffer.getvalue()


def base64(data: bytes) -> dict[str, str]:
    """`data` as the `image` of a JSON request."""
    return {"type": "base64", "value": b64encode(data).decode()}
