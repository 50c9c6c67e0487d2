"""The three stages as the ingress sees them. Behind them are Serve handles; in tests, plain coroutines."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol, TypeVar

from pipeline.stages import DecodeOptions, Detections, DetectRequest, Embedding, MaskPrompts, Masks, Region

T_co = TypeVar("T_co", covariant=True)


class Pending(Protocol[T_co]):
    """A call under way. It runs whether or not it is awaited.

    Awaiting raises `StageError` (the stage refused), `StageLostError` (a replica or an object died), or anything else
    (a fault of ours).
    """

    def __await__(self) -> Generator[Any, None, T_co]: ...

    async def ready(self) -> None:
        """Return when the value exists, without fetching it. Raises as awaiting does."""
        ...

    def cancel(self) -> object:
        """Give the call up: what has not begun is not computed. Harmless when it is over."""
        ...


class Stages(Protocol):
    """One detector and one segmenter. Deadlines are Unix time in seconds."""

    def hold(self, image: bytes) -> Any:
        """Keep encoded `image` where the stages can fetch it; the result stands for it in the calls below."""
        ...

    def detect(self, image: Any, request: DetectRequest, deadline: float | None) -> Pending[Detections]: ...

    def encode(self, image: Any, key: str | None, region: Region | None, deadline: float | None) -> Pending[Embedding]:
        """The embedding; calls of one `key` go to one replica, which keeps image and embedding for the next."""
        ...

    def recall(self, key: str) -> Pending[bytes]:
        """The encoded image that `encode` was given under `key`; StageError `image_not_cached` where it is gone."""
        ...

    def decode(
        self, embedding: Any, prompts: MaskPrompts, options: DecodeOptions, deadline: float | None
    ) -> Pending[Masks]:
        """Masks for an embedding that `encode` gave: by reference, it never passes through the caller."""
        ...
