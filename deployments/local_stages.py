"""The three stages in this process: what `fused` serves, without a handle and without the object store between them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

from deployments.refusals import raised
from pipeline.errors import StageError
from pipeline.stages import DecodeOptions, Detections, DetectRequest, Embedding, MaskPrompts, Masks, Region

T = TypeVar("T")


class LocalCall(Generic[T]):
    """A stage's method under way on this event loop; a `Pending`."""

    def __init__(self, call: Coroutine[Any, Any, T | StageError]) -> None:
        self._task = asyncio.create_task(call)
        self._task.add_done_callback(_seen)

    def __await__(self) -> Generator[Any, None, T]:
        return self._value().__await__()

    async def _value(self) -> T:
        # Shielded: who stops waiting has not given the call up, as another may wait for it.
        return raised(await asyncio.shield(self._task))

    async def ready(self) -> None:
        """Return when the value exists. Raises as awaiting does."""
        await self._value()

    def cancel(self) -> None:
        self._task.cancel()


def _seen(task: asyncio.Task[Any]) -> None:
    """A failure that nobody waits for is no complaint of asyncio's."""
    if not task.cancelled():
        task.exception()


class LocalStages:
    """Calls to stage deployments that live in this process: objects with the methods `detect`, `encode` and `recall`,
    and `decode`."""

    def __init__(self, detector: Any, image_encoder: Any, mask_decoder: Any) -> None:
        self._detector = detector
        self._image_encoder = image_encoder
        self._mask_decoder = mask_decoder

    def hold(self, image: bytes) -> bytes:
        return image

    def detect(self, image: bytes, request: DetectRequest, deadline: float | None) -> LocalCall[Detections]:
        return LocalCall(self._detector.detect(image, request, deadline))

    def encode(
        self, image: bytes, key: str | None, region: Region | None, deadline: float | None
    ) -> LocalCall[Embedding]:
        return LocalCall(self._image_encoder.encode(image, key, region, deadline))

    def recall(self, key: str) -> LocalCall[bytes]:
        return LocalCall(self._image_encoder.recall(key))

    def decode(
        self, embedding: LocalCall[Embedding], prompts: MaskPrompts, options: DecodeOptions, deadline: float | None
    ) -> LocalCall[Masks]:
        async def decoded() -> Masks | StageError:
            masks: Masks | StageError = await self._mask_decoder.decode(await embedding, prompts, options, deadline)
            return masks

        return LocalCall(decoded())
