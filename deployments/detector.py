"""The detector's deployment: GroundingDINO in one replica, batched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deployments.in_place import Changes, of_stage
from deployments.refusals import as_value
from deployments.stage_runner import StageRunner, settle
from deployments.stage_settings import DetectorSettings
from pipeline.bundle import Bundle
from pipeline.stages import Detections, DetectRequest, ImageSource, TextClass

_WARM_UP = DetectRequest(classes=(TextClass(0, "object", "object"),))


class DetectorDeployment:
    """`detect` for many callers. The constructor returns when the model is warm."""

    def __init__(self, bundle: Bundle, settings: DetectorSettings) -> None:
        from deployments import ray_metrics
        from pipeline.detector import Detector  # torch: in the replica, not where the app is built

        ray_metrics.install()
        self._stage = Detector.from_bundle(
            bundle,
            device=settings.device,
            threads=settle(settings),
            precision=settings.precision,
            shapes=settings.shapes,
        )
        self._runner: StageRunner[Any, Any, Detections] = StageRunner(
            self._stage, settings, name="detector", model=bundle.name
        )
        image = np.full((480, 640, 3), 127, np.uint8)
        self._runner.warm_up(lambda: self._stage.prepare(image, _WARM_UP))
        self.changes = Changes(lambda told: self._runner.limit(of_stage(settings, told)))

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Serve's: batch limits for what comes; see `deployments.in_place`."""
        self.changes.take(user_config)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve's: what `deployments.autoscaling` goes by."""
        return self._runner.load.report()

    @as_value
    async def detect(self, image: ImageSource, request: DetectRequest, deadline: float | None = None) -> Detections:
        """Candidate boxes, in pixels of the upright image. Or a StageError; see `pipeline.detector.Detector`."""
        return await self._runner.run(lambda: self._stage.prepare(image, request), deadline)
