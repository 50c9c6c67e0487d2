"""Three stages without a model, behind the batchers and pools of the real ones: what is left is the DAG's own cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deployments.refusals import as_value
from deployments.stage_runner import StageRunner, settle
from deployments.stage_settings import StageSettings
from pipeline.bundle import Bundle
from pipeline.stages import RLE, DecodeOptions, Detections, DetectRequest, Embedding, MaskPrompts, Masks, Region

SIDE = 300, 400  # of an image in the mix; nobody looks


class Nothing:
    """A stage that has its answer before it is asked."""

    def batch_key(self, item: Any) -> None:
        return

    def cost(self, item: Any) -> int:
        return 1

    def forward(self, batch: Sequence[Any]) -> list[Any]:
        return list(batch)

    def finish(self, item: Any, raw: Any) -> Any:
        return raw


class _Empty:
    name = ""

    def __init__(self, bundle: Bundle, settings: StageSettings) -> None:
        from deployments import ray_metrics

        ray_metrics.install()
        settle(settings)
        self._runner: StageRunner[Any, Any, Any] = StageRunner(Nothing(), settings, name=self.name, model=bundle.name)


class Detector(_Empty):
    """One box."""

    name = "detector"

    @as_value
    async def detect(self, image: bytes, request: DetectRequest, deadline: float | None = None) -> Detections:
        one, box = np.ones(1, np.float32), np.array([[10, 10, 90, 90]], np.float32)
        found = Detections(box, one, one, np.zeros(1, np.int32), SIDE)
        answer: Detections = await self._runner.run(lambda: found, deadline)
        return answer


class ImageEncoder(_Empty):
    """An embedding of the embedded model's size: what moves between processes is as large as it is."""

    name = "image_encoder"

    def __init__(self, bundle: Bundle, settings: StageSettings) -> None:
        from pipeline.models.architectures import segmenter_architecture

        super().__init__(bundle, settings)
        arch = segmenter_architecture(bundle.architecture)
        self._features = np.zeros((arch.out_chans, arch.embedding_size, arch.embedding_size), np.float32)

    @as_value
    async def encode(
        self, image: bytes, key: str | None = None, region: Region | None = None, deadline: float | None = None
    ) -> Embedding:
        made = Embedding(self._features, SIDE, SIDE, region, key)
        answer: Embedding = await self._runner.run(lambda: made, deadline)
        return answer


class MaskDecoder(_Empty):
    """A mask of nothing for each box."""

    name = "mask_decoder"

    @as_value
    async def decode(
        self, embedding: Embedding, prompts: MaskPrompts, options: DecodeOptions, deadline: float | None = None
    ) -> Masks:
        count = len(prompts)
        rle = RLE(SIDE, "`oj3")
        made = Masks((rle,) * count, np.ones(count, np.float32), np.zeros(count, np.int32))
        answer: Masks = await self._runner.run(lambda: made, deadline)
        return answer
