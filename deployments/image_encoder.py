"""The image encoder's deployment: SAM's image encoder in one replica, batched."""

from __future__ import annotations

from typing import Any

import numpy as np

from deployments.settings import StageSettings
from deployments.stage_runner import StageRunner, model_threads
from pipeline.bundle import Bundle
from pipeline.stages import Embedding, ImageSource, Region


class ImageEncoderDeployment:
    """`encode` for many callers. The constructor returns when the model is warm."""

    def __init__(self, bundle: Bundle, settings: StageSettings) -> None:
        from pipeline.image_encoder import ImageEncoder  # torch: in the replica, not where the app is built

        self._stage = ImageEncoder.from_bundle(bundle, device=settings.device, threads=model_threads(settings.threads))
        self._runner: StageRunner[Any, Any, Embedding] = StageRunner(self._stage, settings)
        image = np.full((480, 640, 3), 127, np.uint8)
        self._runner.warm_up(lambda: self._stage.prepare(image))

    async def encode(
        self, image: ImageSource, key: str | None = None, region: Region | None = None, deadline: float | None = None
    ) -> Embedding:
        """The embedding, `(C, S, S)`. Raises StageError; see `pipeline.image_encoder.ImageEncoder`."""
        return await self._runner.run(lambda: self._stage.prepare(image, key, region), deadline)
