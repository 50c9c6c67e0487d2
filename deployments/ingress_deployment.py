"""The ingress as a Serve deployment: the HTTP application over handles to the three stages."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.http.app import build
from deployments.ingress import Ingress, ServedModel
from deployments.ray_stages import RayStages
from deployments.readiness import Readiness
from deployments.settings import Limits
from pipeline.image import ImageLimits


class IngressDeployment:
    """Answers HTTP. `serve.ingress()` asks it for its application once the constructor is through.

    Args:
        detector, image_encoder, mask_decoder: handles.
        model: what `ServedModel` takes, but for the stages.
        limits: of a request.
    """

    def __init__(
        self,
        detector: DeploymentHandle[Any],
        image_encoder: DeploymentHandle[Any],
        mask_decoder: DeploymentHandle[Any],
        model: dict[str, Any],
        limits: Limits,
    ) -> None:
        served = ServedModel(stages=RayStages(detector, image_encoder, mask_decoder), **model)
        self._ingress = Ingress(
            (served,),
            ImageLimits(max_bytes=limits.max_image_bytes, max_pixels=limits.max_image_pixels),
            Readiness(serve.get_replica_context().app_name),
        )
        self._limits = limits

    def __serve_build_asgi_app__(self) -> FastAPI:  # noqa: N807  # the name that Serve looks for
        return build(self._ingress, max_timeout_s=self._limits.max_timeout_s)
