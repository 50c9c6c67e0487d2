"""Composes the DAG for one request: detector and image encoder side by side, then the mask decoder.

    bytes -> hold -+- detect ---- select -- boxes -+- decode -> Result
                   +- encode ---- reference -------+

The ingress never holds an embedding, and pixels only to draw into them. `Ingress` knows the stages by their methods
only, so it runs without Ray too. Which image is meant is in `image_sources.py`; how one call is made, repeated and
given up in `calls.py`; large images by tiles in `tiles.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, Literal

from PIL import Image

from deployments.admission_settings import Defaults
from deployments.calls import Calls
from deployments.detect_first import find, mask, selected
from deployments.http.errors import ApiError
from deployments.image_ids import ImageId, ImageIds
from deployments.image_sources import ImageSources, Picture
from deployments.stage_clients import Stages
from pipeline.image import ImageLimits, decode
from pipeline.mask_prompts import fit
from pipeline.mask_result import MaskResult, assemble_masks
from pipeline.overlay import draw
from pipeline.result import Result, assemble
from pipeline.selection import SelectionOptions
from pipeline.stages import DecodeOptions, Detections, DetectRequest, MaskPrompts, Masks
from pipeline.tiling import TileSize, plan

_SMALL_BYTES = 2**20  # copied in less time than the way to a thread and back takes, some tenths of a millisecond


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
        ids: names images for callers.
        detect_first: encode an image once something was found in it.
        defaults: for requests that do not say it themselves.
    """

    def __init__(
        self,
        models: tuple[ServedModel, ...],
        limits: ImageLimits,
        is_ready: Callable[[], Awaitable[bool]],
        ids: ImageIds,
        *,
        detect_first: bool = False,
        defaults: Defaults | None = None,
    ) -> None:
        self.models = models
        self.limits = limits
        self.is_ready = is_ready
        self._sources = ImageSources(ids, limits)
        self._detect_first = detect_first
        self._defaults = defaults or Defaults()
        # One at a time, also of those that nobody waits for any more: a drawing takes 17 bytes for each pixel.
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="drawing")
        self._by_name = {name: model for model in models for name in (model.name, *model.aliases)}

    def model(self, name: str | None) -> ServedModel:
        """The model called `name`; the default for None. Raises ApiError `unknown_model`."""
        if name is None:
            return self.models[0]
        try:
            return self._by_name[name]
        except KeyError:
            raise ApiError("unknown_model", "this model is not served here; see /v1/models", "model") from None

    async def segment(
        self, image: bytes | ImageId, order: Order, model: ServedModel, deadline: float, tenant: str = ""
    ) -> Result:
        """The answer for an image, before `deadline` (Unix time in seconds).

        Args:
            image: encoded, or the id of an earlier answer to the same tenant.
            tenant: whose image it is; others cannot ask for it again.

        Raises:
            StageError: the input is refused, or the id is not known any more. TimeoutError: the deadline.
            StageLostError: a stage died and stayed away.
        """
        async with asyncio.timeout(deadline - time.time()):
            picture = await self._sources.picture(image, model.stages, tenant)
            return await self._segment(picture, order, model, deadline)

    async def overlay(
        self, image: bytes | ImageId, order: Order, model: ServedModel, deadline: float, tenant: str = ""
    ) -> tuple[bytes, Result]:
        """The image with the answer drawn in, as PNG, and the answer. Arguments and errors as `segment` has them."""
        async with asyncio.timeout(deadline - time.time()):
            picture = await self._sources.picture(image, model.stages, tenant)
            result = await self._segment(picture, order, model, deadline)
            loop = asyncio.get_running_loop()
            drawn = await loop.run_in_executor(self._drawing, _draw, picture.data, result, self.limits, deadline)
            return drawn, result

    async def _segment(self, picture: Picture, order: Order, model: ServedModel, deadline: float) -> Result:
        order = replace(order, detect=self._with_defaults(order.detect))
        tiling = plan(picture.size, order.tile, model.short_side, order.detect)
        with await _calls(model, picture, deadline) as calls:
            if tiling is None and not self._detect_first:
                kept, removed, masks = await _at_once(calls, order)
            else:
                found = await find(calls, tiling, order.detect, order.selection)
                kept, removed, masks = await mask(calls, found, order.selection, order.decode, deadline)
            timings_ms = calls.timings.milliseconds("detect", "encode", "masks")
            result = assemble(order.detect, kept, removed, masks, model=model.name, timings_ms=timings_ms)
            return replace(result, image_id=picture.id)

    def _with_defaults(self, request: DetectRequest) -> DetectRequest:
        box, text = request.box_threshold, request.text_threshold
        return replace(
            request,
            box_threshold=self._defaults.box_threshold if box is None else box,
            text_threshold=self._defaults.text_threshold if text is None else text,
        )

    async def masks(
        self, image: bytes | ImageId, order: MaskOrder, model: ServedModel, deadline: float, tenant: str = ""
    ) -> MaskResult:
        """One mask for each prompt, before `deadline`. Arguments and errors as those of `segment`."""
        async with asyncio.timeout(deadline - time.time()):
            picture = await self._sources.picture(image, model.stages, tenant)
            prompts, warnings = fit(order.prompts, picture.size)
            with await _calls(model, picture, deadline) as calls:
                masks = await calls.decode(calls.encode(), prompts, order.decode)
                # In a thread: the bounding boxes of many masks of a large image take a while.
                result = await asyncio.to_thread(
                    assemble_masks, prompts, masks, picture.size, model=model.name, warnings=warnings
                )
                timings_ms = calls.timings.milliseconds("encode", "masks")
                return replace(result, timings_ms=timings_ms, image_id=picture.id)


def _draw(data: bytes, result: Result, limits: ImageLimits, deadline: float) -> bytes:
    if time.time() >= deadline:
        raise TimeoutError
    buffer = BytesIO()
    Image.fromarray(draw(decode(data, limits), result)).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


async def _calls(model: ServedModel, picture: Picture, deadline: float) -> Calls:
    hold = model.stages.hold
    # A large one in a thread: 32 MiB take milliseconds to copy, and nobody else would be answered meanwhile.
    held = hold(picture.data) if len(picture.data) <= _SMALL_BYTES else await asyncio.to_thread(hold, picture.data)
    return Calls(model.stages, picture.data, held, picture.key, deadline)


async def _at_once(calls: Calls, order: Order) -> tuple[Detections, dict[str, int], Masks | None]:
    """Detector and image encoder side by side."""
    encoding = None if order.decode is None else calls.encode()
    kept, removed = await selected(await calls.detect(order.detect), order.selection)
    if order.decode is None or encoding is None:
        return kept, removed, None
    if not len(kept):
        return kept, removed, Masks.empty()
    return kept, removed, await calls.decode(encoding, MaskPrompts(boxes=kept.boxes), order.decode)
