"""Three stages whose models only take time, as one on a GPU does to its process: all around them is the service's.

So that replicas add up on a machine of two cores. An answer holds one box and an empty mask.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.serving import empty_stages
from benchmarks.serving.empty_stages import Nothing
from deployments.stage_runner import StageRunner
from deployments.stage_settings import StageSettings
from pipeline.bundle import Bundle

START_S = 10.0  # that weights take to load
# Of a forward pass: seconds, and seconds more for each item. At batch 8 an encoder makes 4 images a second.
LAWS = {"detector": (0.02, 0.12), "image_encoder": (0.02, 0.25), "mask_decoder": (0.01, 0.02)}


class Timed(Nothing):
    """Of a law."""

    def __init__(self, law: tuple[float, float]) -> None:
        self._law = law

    def forward(self, batch: Sequence[Any]) -> list[Any]:
        fixed, each = self._law
        time.sleep(fixed + each * len(batch))
        return super().forward(batch)


class _Timed(empty_stages._Empty):
    def __init__(self, bundle: Bundle, settings: StageSettings) -> None:
        super().__init__(bundle, settings)
        time.sleep(START_S)
        self._runner = StageRunner(Timed(LAWS[self.name]), settings, name=self.name, model=bundle.name)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Nothing changes."""

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return self._runner.load.report()


class Detector(_Timed, empty_stages.Detector):
    pass


class ImageEncoder(_Timed, empty_stages.ImageEncoder):
    pass


class MaskDecoder(_Timed, empty_stages.MaskDecoder):
    pass
