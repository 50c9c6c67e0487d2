"""One deployment for small machines and single GPUs: the ingress with the three stages in its own process.

The same ingress, the same stages behind the same batchers; a call between them is a call on the event loop, and an
embedding stays where it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.catalogue import Catalogue, OfferedDetector, OfferedSegmenter, Pair
from deployments.detector import DetectorDeployment
from deployments.image_encoder import ImageEncoderDeployment
from deployments.ingress_deployment import IngressDeployment, IngressOptions
from deployments.local_stages import LocalStages
from deployments.mask_decoder import MaskDecoderDeployment
from deployments.settings import SettingsError
from deployments.stage_settings import IngressSettings, Replicas, StageSettings, resources_of


class FusedDeployment(IngressDeployment):
    """Answers HTTP, and computes. The constructor returns when all models are warm.

    Args:
        detectors, segmenters: on offer, by name.
        options: of all replicas.
    """

    def __init__(
        self,
        detectors: Mapping[str, OfferedDetector],
        segmenters: Mapping[str, OfferedSegmenter],
        options: IngressOptions,
    ) -> None:
        detecting = {name: DetectorDeployment(one.bundle, one.deployment) for name, one in detectors.items()}
        encoding = {name: ImageEncoderDeployment(one.bundle, one.image_encoder) for name, one in segmenters.items()}
        decoding = {name: MaskDecoderDeployment(one.bundle, one.mask_decoder) for name, one in segmenters.items()}

        def stages_of(pair: Pair) -> LocalStages:
            return LocalStages(detecting[pair.detector], encoding[pair.segmenter], decoding[pair.segmenter])

        self._stages: Mapping[str, list[Any]] = {
            "detector": list(detecting.values()),
            "image_encoder": list(encoding.values()),
            "mask_decoder": list(decoding.values()),
        }
        self._settings = stage_settings(detectors, segmenters)
        self.start(stages_of, options)

    def change(self, told: Any) -> None:
        """As the ingress's, and the stages' batches: a section for all models of a kind."""
        self.hold_against(self.options.requests.changed(told, self._settings))
        for name, stages in self._stages.items():
            for stage in stages:
                stage.changes.take(told.get(name, {}))


def stage_settings(
    detectors: Mapping[str, OfferedDetector], segmenters: Mapping[str, OfferedSegmenter]
) -> dict[str, list[StageSettings]]:
    """Those of all models, by kind of stage: what a fused replica's `user_config` is laid over."""
    return {
        "detector": [one.deployment for one in detectors.values()],
        "image_encoder": [one.image_encoder for one in segmenters.values()],
        "mask_decoder": [one.mask_decoder for one in segmenters.values()],
    }


def placement(ingress: IngressSettings, offer: Catalogue) -> Replicas:
    """What a fused replica needs: what the ingress and all stages would, together.

    Raises SettingsError where that is more than one GPU, and no whole number of them.
    """
    stages = stage_settings(offer.detectors, offer.segmenters)
    parts: list[Replicas] = [ingress, *(part for parts in stages.values() for part in parts)]
    gpus = round(sum(one.num_gpus for one in parts), 4)
    if gpus > 1 and gpus != int(gpus):
        raise SettingsError(f"fused: the stages set {gpus} GPUs aside together; Ray gives a part of one, or whole ones")
    return ingress.model_copy(
        update={
            "num_cpus": round(sum(one.num_cpus for one in parts), 4),
            "num_gpus": gpus,
            "resources": resources_of(parts),
            "graceful_shutdown_timeout_s": max(one.graceful_shutdown_timeout_s for one in parts),
        }
    )
