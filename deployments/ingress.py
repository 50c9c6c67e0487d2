"""Composes the DAG for one request: detector and image encoder side by side, then the mask decoder.

    bytes -> hold -+- detect ---- select -- boxes -+- decode -> Result
                   +- encode ---- reference -------+

The ingress never holds an embedding or decoded pixels. `Ingress` knows the stages by their three methods only, so it
runs without Ray too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from deployments.http.errors import ApiError
from deployments.retry import StageLostError, with_retries
from deployments.stage_clients import Pending, Stages
from pipeline.image import ImageLimits, read_size
from pipeline.result import Result, assemble
from pipeline.selection import SelectionOptions, select
from pipeline.stages import DecodeOptions, Detections, DetectRequest, Embedding, MaskPrompts, Masks

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Order:
    """What one request asks for. `decode` of None: boxes only."""

    detect: DetectRequest
    selection: SelectionOptions
    decode: DecodeOptions | None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A pair of detector and segmenter. `card` is what `/v1/models` says of it."""

    name: str
    stages: Stages
    aliases: tuple[str, ...] = ()
    card: Mapping[str, Any] | None = None


class Ingress:
    """What the HTTP layer calls.

    Args:
        models: the pairs on offer; the first is the default.
        limits: of an image.
        is_ready: whether every stage could answer; must not call a stage.
    """

    def __init__(
        self, models: tuple[ServedModel, ...], limits: ImageLimits, is_ready: Callable[[], Awaitable[bool]]
    ) -> None:
        self.models = models
        self.limits = limits
        self.is_ready = is_ready
        self._by_name = {name: model for model in models for name in (model.name, *model.aliases)}

    def model(self, name: str | None) -> ServedModel:
        """The model called `name`; the default for None. Raises ApiError `unknown_model`."""
        if name is None:
            return self.models[0]
        try:
            return self._by_name[name]
        except KeyError:
            raise ApiError("unknown_model", "this model is not served here; see /v1/models", "model") from None

    async def segment(self, image: bytes, order: Order, model: ServedModel, deadline: float) -> Result:
        """The answer for encoded `image`, before `deadline` (Unix time in seconds).

        Raises:
            StageError: the input is refused. TimeoutError: the deadline. StageLostError: a stage died and stayed away.
        """
        read_size(image, self.limits)  # refuses by the header: nothing is decoded here
        async with asyncio.timeout(deadline - time.time()):
            return await _Run(model, order, image, deadline).result()


class _Run:
    """One request on its way through the stages."""

    def __init__(self, model: ServedModel, order: Order, image: bytes, deadline: float) -> None:
        self._model = model
        self._stages = model.stages
        self._order = order
        self._image = image
        self._deadline = deadline
        self._open: set[Pending[Any]] = set()  # calls to give up when the request ends before they do
        self._timings = _Timings()

    async def result(self) -> Result:
        try:
            held = self._stages.hold(self._image)
            encoding = None if self._order.decode is None else self._encode(held)
            detections = await with_retries(lambda number: self._detect(held, number), self._deadline)
            self._timings.mark("detect")
            # In a thread: NMS over all candidates of a long prompt takes seconds, and others wait for the loop.
            kept, removed = await asyncio.to_thread(select, detections, self._order.selection)
            masks = None
            if encoding is not None and self._order.decode is not None and len(kept):
                masks = await self._masks(encoding, kept, self._order.decode)
            return self._answer(kept, removed, masks)
        finally:
            for pending in self._open:
                pending.cancel()

    async def _detect(self, held: Any, attempt: int) -> Detections:
        # What was held may be what was lost, so another attempt holds the bytes anew.
        image = self._stages.hold(self._image) if attempt else held
        return await self._await(self._stages.detect(image, self._order.detect, self._deadline))

    def _encode(self, held: Any) -> Pending[Embedding]:
        encoding = self._stages.encode(held, None, None, self._deadline)
        self._open.add(encoding)
        self._timings.watch("encode", encoding)
        return encoding

    async def _masks(self, encoding: Pending[Embedding], kept: Detections, options: DecodeOptions) -> Masks:
        embedding: Pending[Embedding] | None = encoding

        async def attempt(_: int) -> Masks:
            nonlocal embedding
            if embedding is None:  # the retry unit is what comes after the lost object
                embedding = self._encode(self._stages.hold(self._image))
            try:
                masks = await self._await(
                    self._stages.decode(embedding, MaskPrompts(boxes=kept.boxes), options, self._deadline)
                )
            except StageLostError as loss:
                if loss.input_lost:
                    embedding = None
                raise
            self._open.discard(embedding)
            return masks

        masks = await with_retries(attempt, self._deadline)
        self._timings.mark("masks", after=("detect", "encode"))
        return masks

    async def _await(self, pending: Pending[T]) -> T:
        self._open.add(pending)  # stays there if this request is cancelled meanwhile
        try:
            value = await pending
        except Exception:
            self._open.discard(pending)
            raise
        self._open.discard(pending)
        return value

    def _answer(self, kept: Detections, removed: dict[str, int], masks: Masks | None) -> Result:
        if masks is None and self._order.decode is not None:  # masks were asked for, and there is nothing to mask
            masks = Masks((), np.zeros(0, np.float32))
        request, timings_ms = self._order.detect, self._timings.milliseconds()
        return assemble(request, kept, removed, masks, model=self._model.name, timings_ms=timings_ms)


class _Timings:
    """Milliseconds from the request's start to the end of each stage; of `masks`, from when its inputs were there."""

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

    def milliseconds(self) -> dict[str, float]:
        # A stage that had nothing to do, or was given up, took no time: every answer has the same keys.
        spans = {"detect": 0.0, "encode": 0.0, "masks": 0.0, **self._spans, "total": time.perf_counter() - self._start}
        return {name: round(1000 * seconds, 1) for name, seconds in spans.items()}
