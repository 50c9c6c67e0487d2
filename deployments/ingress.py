"""Composes the DAG for one request: detector and image encoder side by side, then the mask decoder.

    bytes -> hold -+- detect ---- select -- boxes -+- decode -> Result
                   +- encode ---- reference -------+

The ingress never holds an embedding or decoded pixels. `Ingress` knows the stages by their three methods only, so it
runs without Ray too. How one call is made, repeated and given up is in `calls.py`; large images by tiles in `tiles.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from deployments.calls import Calls
from deployments.http.errors import ApiError
from deployments.stage_clients import Stages
from deployments.tiles import segment_tiles
from pipeline.image import ImageLimits, read_size
from pipeline.mask_prompts import fit
from pipeline.mask_result import MaskResult, assemble_masks
from pipeline.result import Result, assemble
from pipeline.selection import SelectionOptions, select
from pipeline.stages import DecodeOptions, Detections, DetectRequest, MaskPrompts, Masks
from pipeline.tiling import TileSize, plan


@dataclass(frozen=True, slots=True)
class Order:
    """What one request asks for. `decode` of None: boxes only; `tile` of None: the image as a whole."""

    detect: DetectRequest
    selection: SelectionOptions
    decode: DecodeOptions | None
    tile: Literal["auto"] | TileSize | None = None


@dataclass(frozen=True, slots=True)
class MaskOrder:
    """What one request without text asks for; the prompts as `parse_mask_prompts` gives them."""

    prompts: MaskPrompts
    decode: DecodeOptions


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A pair of detector and segmenter.

    Attributes:
        card: what `/v1/models` says of it.
        short_side: to which the detector resizes an image's shorter side, in pixels.
    """

    name: str
    stages: Stages
    aliases: tuple[str, ...] = ()
    card: Mapping[str, Any] | None = None
    short_side: int = 800


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
        size = read_size(image, self.limits)  # refuses by the header: nothing is decoded here
        tiling = plan(size, order.tile, model.short_side, order.detect)
        async with asyncio.timeout(deadline - time.time()):
            with Calls(model.stages, image, deadline) as calls:
                if tiling is None:
                    kept, removed, masks = await _segment(calls, order)
                else:
                    kept, removed, masks = await segment_tiles(
                        calls, tiling, order.detect, order.selection, order.decode, deadline
                    )
                timings_ms = calls.timings.milliseconds("detect", "encode", "masks")
                return assemble(order.detect, kept, removed, masks, model=model.name, timings_ms=timings_ms)

    async def masks(self, image: bytes, order: MaskOrder, model: ServedModel, deadline: float) -> MaskResult:
        """One mask for each prompt in encoded `image`, before `deadline`. Raises as `segment` does."""
        size = read_size(image, self.limits)
        prompts, warnings = fit(order.prompts, size)
        async with asyncio.timeout(deadline - time.time()):
            with Calls(model.stages, image, deadline) as calls:
                masks = await calls.decode(calls.encode(), prompts, order.decode)
                # In a thread: the bounding boxes of many masks of a large image take a while.
                result = await asyncio.to_thread(
                    assemble_masks, prompts, masks, size, model=model.name, warnings=warnings
                )
                return replace(result, timings_ms=calls.timings.milliseconds("encode", "masks"))


async def _segment(calls: Calls, order: Order) -> tuple[Detections, dict[str, int], Masks | None]:
    encoding = None if order.decode is None else calls.encode()
    detections = await calls.detect(order.detect)
    # In a thread: NMS over all candidates of a long prompt takes seconds, and others wait for the loop.
    kept, removed = await asyncio.to_thread(select, detections, order.selection)
    if encoding is None or order.decode is None:
        return kept, removed, None
    if not len(kept):
        return kept, removed, Masks.empty()
    return kept, removed, await calls.decode(encoding, MaskPrompts(boxes=kept.boxes), order.decode)
