"""The image encoder's deployment: SAM's image encoder in one replica, batched, its answers kept by image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deployments import metrics
from deployments.cache import Flights, ImageCache
from deployments.image_ids import not_cached
from deployments.in_place import Changes, of_stage
from deployments.refusals import as_value
from deployments.stage_runner import StageRunner, settle
from deployments.stage_settings import ImageEncoderSettings
from pipeline.bundle import Bundle
from pipeline.stages import Embedding, Region


class ImageEncoderDeployment:
    """`encode` for many callers. The constructor returns when the model is warm."""

    def __init__(self, bundle: Bundle, settings: ImageEncoderSettings) -> None:
        from deployments import ray_metrics
        from pipeline.image_encoder import ImageEncoder  # torch: in the replica, not where the app is built

        ray_metrics.install()
        self._stage = ImageEncoder.from_bundle(
            bundle,
            device=settings.device,
            threads=settle(settings),
            precision=settings.precision,
            compile=settings.compile,
            max_batch=settings.max_batch_size,
        )
        self._runner: StageRunner[Any, Any, Embedding] = StageRunner(
            self._stage, settings, name="image_encoder", model=bundle.name
        )
        self._model = bundle.name
        self._cache = ImageCache(settings.cache_bytes)
        self._flights: Flights[Embedding] = Flights()
        image = np.full((480, 640, 3), 127, np.uint8)
        self._runner.warm_up(lambda: self._stage.prepare(image))
        self.changes = Changes(lambda told: self._runner.limit(of_stage(settings, told)))

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Serve's: batch limits for what comes; see `deployments.in_place`."""
        self.changes.take(user_config)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve's: what `deployments.autoscaling` goes by."""
        return self._runner.load.report()

    @as_value
    async def encode(
        self, image: bytes, key: str | None = None, region: Region | None = None, deadline: float | None = None
    ) -> Embedding:
        """The embedding, `(C, S, S)`: the one that is kept under `key`, or else a new one.

        Or a StageError; see `pipeline.image_encoder.ImageEncoder`.
        """

        async def work() -> Embedding:
            embedding = await self._runner.run(lambda: self._stage.prepare(image, key, region), deadline)
            if key is not None:
                self._cache.keep(key, image, region, embedding)
                metrics.CACHE_BYTES.record(self._cache.size, model=self._model)
            return embedding

        if key is None:
            return await work()
        kept = self._cache.embedding(key, region)
        if kept is not None:
            self._looked_up("embedding", "hit")
            return kept
        self._looked_up("embedding", "joined" if self._flights.under_way((key, region)) else "miss")
        return await self._flights.join((key, region), work)

    @as_value
    async def recall(self, key: str) -> bytes:
        """The encoded image that was sent under `key`, or StageError `image_not_cached`."""
        image = self._cache.image(key)
        self._looked_up("image", "miss" if image is None else "hit")
        if image is None:
            raise not_cached()
        return image

    def _looked_up(self, kind: str, outcome: str) -> None:
        if (kind, outcome) != ("embedding", "miss"):  # of which the work itself is a call
            self._runner.load.call()
        metrics.CACHE_LOOKUPS.record(1, kind=kind, model=self._model, outcome=outcome)
