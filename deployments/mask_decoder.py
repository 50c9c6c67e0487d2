"""The mask decoder's deployment: SAM's prompt encoder and mask decoder in one replica, batched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deployments.in_place import Changes, of_stage
from deployments.refusals import as_value
from deployments.stage_runner import StageRunner, settle
from deployments.stage_settings import StageSettings
from pipeline.bundle import Bundle
from pipeline.models.architectures import segmenter_architecture
from pipeline.stages import DecodeOptions, Embedding, MaskPrompts, Masks


class MaskDecoderDeployment:
    """`decode` for many callers. The constructor returns when the model is warm."""

    def __init__(self, bundle: Bundle, settings: StageSettings) -> None:
        from deployments import ray_metrics
        from pipeline.mask_decoder import MaskDecoder  # torch: in the replica, not where the app is built

        ray_metrics.install()
        self._stage = MaskDecoder.from_bundle(
            bundle, device=settings.device, threads=settle(settings), precision=settings.precision
        )
        self._runner: StageRunner[Any, Any, Masks] = StageRunner(
            self._stage, settings, name="mask_decoder", model=bundle.name
        )
        embedding, prompts = _blank(bundle.architecture)
        self._runner.warm_up(lambda: self._stage.prepare(embedding, prompts, DecodeOptions()))
        self.changes = Changes(lambda told: self._runner.limit(of_stage(settings, told)))

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Serve's: batch limits for what comes; see `deployments.in_place`."""
        self.changes.take(user_config)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve's: what `deployments.autoscaling` goes by."""
        return self._runner.load.report()

    @as_value
    async def decode(
        self, embedding: Embedding, prompts: MaskPrompts, options: DecodeOptions, deadline: float | None = None
    ) -> Masks:
        """Finished masks, one a prompt. Or a StageError; see `pipeline.mask_decoder.MaskDecoder`."""
        return await self._runner.run(lambda: self._stage.prepare(embedding, prompts, options, deadline), deadline)


def _blank(architecture: str) -> tuple[Embedding, MaskPrompts]:
    """An empty embedding of the right shape, and one box in it."""
    model = segmenter_architecture(architecture)
    features = np.zeros((model.out_chans, model.embedding_size, model.embedding_size), np.float32)
    size = (model.image_size, model.image_size)
    box = np.array([[0, 0, model.image_size / 2, model.image_size / 2]], np.float32)
    return Embedding(features, input_size=size, image_size=size), MaskPrompts(boxes=box)
