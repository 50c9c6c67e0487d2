"""One request's calls to the stages: what is lost is repeated, and what the request no longer needs is given up."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, TypeVar

from deployments import metrics
from deployments.retry import StageLostError, with_retries
from deployments.stage_clients import Pending, Stages
from pipeline.stages import DecodeOptions, Detections, DetectRequest, Embedding, MaskPrompts, Masks, Region

T = TypeVar("T")


class Encoding:
    """The image encoder's call for one region, under way or done. What it gives never passes through here."""

    def __init__(self, region: Region | None, pending: Pending[Embedding]) -> None:
        self.region = region
        self.pending: Pending[Embedding] | None = pending  # None: lost, to be encoded again


class Calls:
    """The three stages for one image. On leaving the context, calls that still run are cancelled.

    Args:
        stages: one detector and one segmenter.
        image: encoded bytes.
        held: what `stages.hold` gave for them.
        key: under which the image encoder keeps it, or None.
        deadline: Unix time in seconds.
    """

    def __init__(self, stages: Stages, image: bytes, held: Any, key: str | None, deadline: float) -> None:
        self.timings = Timings()
        self._stages = stages
        self._image = image
        self._key = key
        self._deadline = deadline
        self._held = held
        self._open: set[Pending[Any]] = set()

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pending in self._open:
            pending.cancel()

    async def detect(self, request: DetectRequest) -> Detections:
        """The detector's candidates for `request`, in the frame of its region."""

        async def attempt(number: int) -> Detections:
            if number:
                metrics.RETRIES.record(1, stage="detector")
            # What was held may be what was lost, so another attempt holds the bytes anew.
            image = self._stages.hold(self._image) if number else self._held
            return await self._await(self._stages.detect(image, request, self._deadline))

        detections = await with_retries(attempt, self._deadline)
        self.timings.mark("detect")
        return detections

    def encode(self, region: Region | None = None) -> Encoding:
        """Start the image encoder on `region`, or on the whole image."""
        return Encoding(region, self._encode(self._held, region))

    async def decode(self, encoding: Encoding, prompts: MaskPrompts, options: DecodeOptions) -> Masks:
        """Finished masks for `prompts`, in the frame of the encoding's region."""

        async def attempt(number: int) -> Masks:
            if number:  # what was lost is what is counted: the embedding, or the decoder
                metrics.RETRIES.record(1, stage="image_encoder" if encoding.pending is None else "mask_decoder")
            if encoding.pending is None:  # the retry unit is what comes after the lost object
                encoding.pending = self._encode(self._stages.hold(self._image), encoding.region)
            try:
                masks = await self._await(self._stages.decode(encoding.pending, prompts, options, self._deadline))
            except StageLostError as loss:
                if loss.input_lost:
                    encoding.pending = None
                raise
            self._open.discard(encoding.pending)
            return masks

        masks = await with_retries(attempt, self._deadline)
        self.timings.mark("masks", after=("detect", "encode"))
        return masks

    def _encode(self, held: Any, region: Region | None) -> Pending[Embedding]:
        encoding = self._stages.encode(held, self._key, region, self._deadline)
        self._open.add(encoding)
        self.timings.watch("encode", encoding)
        return encoding

    async def _await(self, pending: Pending[T]) -> T:
        self._open.add(pending)  # stays there if this request is cancelled meanwhile
        try:
            value = await pending
        except Exception:
            self._open.discard(pending)
            raise
        self._open.discard(pending)
        return value


class Timings:
    """Milliseconds from the request's start to the last end of each stage; of `masks`, from when its inputs were there.

    A stage that is called several times counts until its last call is through.
    """

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._ends: dict[str, float] = {}
        self._spans: dict[str, float] = {}
        self._watching: set[asyncio.Task[None]] = set()

    def mark(self, name: str, after: tuple[str, ...] = ()) -> None:
        now = time.perf_counter()
        self._spans[name] = now - max([self._start, *(self._ends[other] for other in after if other in self._ends)])
        self._ends[name] = now

    def watch(self, name: str, pending: Pending[Any]) -> None:
        """Mark `name` when `pending` is there, without fetching it. A failure shows where its value is used."""

        async def wait() -> None:
            try:
                await pending.ready()
            except Exception:
                return
            self.mark(name)

        task = asyncio.create_task(wait())
        self._watching.add(task)  # the loop itself keeps no reference
        task.add_done_callback(self._watching.discard)

    def milliseconds(self, *names: str) -> dict[str, float]:
        """For `names` and in `total`. A stage that had nothing to do, or was given up, took no time."""
        spans = {name: self._spans.get(name, 0.0) for name in names} | {"total": time.perf_counter() - self._start}
        return {name: round(1000 * seconds, 1) for name, seconds in spans.items()}
