"""From what a request sends, bytes or the id of an earlier answer, to an image that the stages can be called with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from deployments.image_ids import ImageId, ImageIds, cache_key, not_cached
from deployments.retry import StageLostError
from deployments.stage_clients import Stages
from pipeline.image import ImageLimits, read_size

RECALL_S = 5.0  # a replica that keeps the image answers at once; one that has to start first keeps none


@dataclass(frozen=True, slots=True)
class Picture:
    """One request's image.

    Attributes:
        data: encoded.
        size: upright `(height, width)`.
        id: by which its tenant may ask for it again.
        key: under which an image encoder keeps it.
    """

    data: bytes
    size: tuple[int, int]
    id: str
    key: str


class ImageSources:
    """Images of one ingress replica.

    Args:
        ids: names images for callers.
        limits: of an image.
    """

    def __init__(self, ids: ImageIds, limits: ImageLimits) -> None:
        self._ids = ids
        self._limits = limits

    async def picture(self, image: bytes | ImageId, stages: Stages, tenant: str) -> Picture:
        """What `image`, of `tenant`, is. Refuses by the header: no pixel is decoded here.

        Raises:
            StageError: it may not be, or its id is not known any more.
        """
        await asyncio.sleep(0)  # where the time is over already, it ends here
        if isinstance(image, ImageId):
            key = cache_key(image.value, tenant)
            data = await _recall(stages, image, key)
            size = read_size(data, self._limits)
            return Picture(data, size, image.value, key)
        size = read_size(image, self._limits)
        # In a thread: 32 MiB take tens of milliseconds.
        image_id = await asyncio.to_thread(self._ids.of, image, tenant)
        return Picture(image, size, image_id, cache_key(image_id, tenant))


async def _recall(stages: Stages, image: ImageId, key: str) -> bytes:
    """The bytes that were sent before. Raises StageError `image_not_cached`, however they were lost."""
    if ImageIds.well_formed(image.value):
        pending = stages.recall(key)
        try:
            async with asyncio.timeout(RECALL_S):
                return await pending
        except (StageLostError, TimeoutError):
            pass
        finally:
            pending.cancel()  # nothing, if it is through
    raise not_cached()
