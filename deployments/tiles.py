"""One request by tiles: all through the detector, those in which something was found through the segmenter, one answer.

A tile travels as numbers: the encoded image is held once, and no pixel is decoded here. A few tiles are under way at a
time, so that one large image fills the stages' batches and still leaves room in them for other requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from deployments.calls import Calls
from pipeline.seams import limit, merge
from pipeline.selection import SelectionOptions
from pipeline.stages import DecodeOptions, Detections, DetectRequest, MaskPrompts, Masks
from pipeline.tiling import Admitted, Tiling

AT_ONCE = 8  # tiles of one request under way: a full batch by default

T = TypeVar("T")


async def detect_tiles(
    calls: Calls, tiling: Tiling, request: DetectRequest, selection: SelectionOptions
) -> tuple[Admitted, ...]:
    """What each tile contributes, in the order of the regions. Raises as `Calls` does."""

    async def detect(number: int) -> Admitted:
        found = await calls.detect(replace(request, region=tiling.regions[number]))
        return await asyncio.to_thread(tiling.admit, found, number, selection)

    return tuple(limit(await _each(detect, range(len(tiling.regions)))))


async def mask_tiles(
    calls: Calls,
    tiling: Tiling,
    admitted: Sequence[Admitted],
    selection: SelectionOptions,
    decoding: DecodeOptions | None,
    deadline: float,
) -> tuple[Detections, dict[str, int], Masks | None]:
    """What is kept, how many each step of the selection removed, and the masks; the same as `TextToMask` gives.

    Args:
        calls: of the image.
        admitted: as `detect_tiles` gave it.
        decoding: None for boxes only.
        deadline: Unix time in seconds.

    Raises:
        As `Calls` does; StageError `deadline_exceeded` from merging.
    """

    async def decode(number: int) -> Masks:
        boxes = admitted[number].kept.boxes
        if decoding is None or not len(boxes):
            return Masks.empty()
        # Only now: a tile in which nothing was found is never encoded.
        return await calls.decode(calls.encode(tiling.regions[number]), MaskPrompts(boxes=boxes), decoding)

    masks = None if decoding is None else await _each(decode, range(len(tiling.regions)))
    merged, united, removed = await asyncio.to_thread(merge, tiling, admitted, masks, selection, deadline)
    calls.timings.mark("masks", after=("detect", "encode"))
    return merged, removed, united


async def _each(work: Callable[[int], Awaitable[T]], numbers: range) -> list[T]:
    """`work` of every number, in order, a few at a time. The first failure gives up the others and is raised."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> T:
        async with places:
            return await work(number)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(number)) for number in numbers]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
