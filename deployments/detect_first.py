"""One request in two halves: the detector's, then the segmenter's for what was found.

By tiles it always goes so; in jobs too, where the halves may lie in two processes; for other requests where the setting
`detect_first` says so.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np

from deployments.calls import Calls
from deployments.tiles import detect_tiles, mask_tiles
from pipeline.selection import SelectionOptions, select
from pipeline.stages import DecodeOptions, Detections, DetectRequest, MaskPrompts, Masks
from pipeline.tiling import Admitted, Tiling

_FEW_CANDIDATES = 200  # what takes less time than the way to a thread and back


@dataclass(frozen=True, slots=True)
class Found:
    """What the detector's half leaves to the segmenter's.

    Attributes:
        tiling: None for an image as a whole.
        admitted: what each tile contributes, or the one whole image.
    """

    tiling: Tiling | None
    admitted: tuple[Admitted, ...]

    def __len__(self) -> int:
        """Boxes to mask."""
        return sum(len(one.kept) for one in self.admitted)


async def find(calls: Calls, tiling: Tiling | None, request: DetectRequest, selection: SelectionOptions) -> Found:
    """The detector's half. Raises as `Calls` does."""
    if tiling is not None:
        return Found(tiling, await detect_tiles(calls, tiling, request, selection))
    kept, removed = await selected(await calls.detect(request), selection)
    return Found(None, (Admitted(kept, np.zeros((0, 4), np.float32), removed),))


async def mask(
    calls: Calls, found: Found, selection: SelectionOptions, decoding: DecodeOptions | None, deadline: float
) -> tuple[Detections, dict[str, int], Masks | None]:
    """The segmenter's half: what is kept, how many each step of the selection removed, and the masks.

    Args:
        decoding: None for boxes only.
        deadline: Unix time in seconds.

    Raises:
        As `Calls` does; StageError `deadline_exceeded` from merging tiles.
    """
    if found.tiling is not None:
        return await mask_tiles(calls, found.tiling, found.admitted, selection, decoding, deadline)
    (whole,) = found.admitted
    if decoding is None:
        return whole.kept, whole.removed, None
    if not len(whole.kept):
        return whole.kept, whole.removed, Masks.empty()
    masks = await calls.decode(calls.encode(), MaskPrompts(boxes=whole.kept.boxes), decoding)
    return whole.kept, whole.removed, masks


async def selected(detections: Detections, selection: SelectionOptions) -> tuple[Detections, dict[str, int]]:
    """`pipeline.selection.select`. Of many in a thread: NMS over all candidates of a long prompt takes seconds, and
    others wait for the loop."""
    if len(detections) <= _FEW_CANDIDATES:
        return select(detections, selection)
    return await asyncio.to_thread(select, detections, selection)
