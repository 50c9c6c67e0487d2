"""The ingress as a Serve deployment: the HTTP application over handles to the stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments import keys, ray_metrics
from deployments.admission_settings import AdmissionSettings, Limits
from deployments.auth_settings import AuthSettings
from deployments.catalogue import Pair
from deployments.fetch import Fetcher
from deployments.fetch_settings import FetchSettings
from deployments.http.app import build
from deployments.image_ids import ImageIds
from deployments.ingress import Ingress, ServedModel
from deployments.ray_stages import RayStages
from deployments.readiness import Readiness
from deployments.stage_clients import Stages

Handles = Mapping[str, DeploymentHandle[Any]]


@dataclass(frozen=True, slots=True)
class IngressOptions:
    """What every ingress replica is given, the same for all of them."""

    pairs: tuple[Pair, ...]
    limits: Limits
    auth: AuthSettings
    fetch: FetchSettings
    admission: AdmissionSettings
    detect_first: bool
    id_secret: str
    access_log: bool

    def __repr__(self) -> str:  # it is printed in logs and in Serve's status: the secret is not
        return f"IngressOptions({', '.join(pair.name for pair in self.pairs)})"


class IngressDeployment:
    """Answers HTTP. `serve.ingress()` asks it for its application once the constructor is through.

    Args:
        detectors, image_encoders, mask_decoders: handles by the model's name.
        options: of all ingress replicas.

    Raises:
        SettingsError: keys are wanted and there are none.
    """

    def __init__(
        self, detectors: Handles, image_encoders: Handles, mask_decoders: Handles, options: IngressOptions
    ) -> None:

        def stages_of(pair: Pair) -> RayStages:
            return RayStages(detectors[pair.detector], image_encoders[pair.segmenter], mask_decoders[pair.segmenter])

        self.start(stages_of, options)

    def start(self, stages_of: Callable[[Pair], Stages], options: IngressOptions) -> None:
        """The rest of a constructor, once there is somebody to ask. Raises SettingsError."""
        keys.check(options.auth)
        ray_metrics.install()
        models = tuple(
            ServedModel(pair.name, stages_of(pair), pair.aliases, pair.card, pair.short_side) for pair in options.pairs
        )
        self._ingress = Ingress(
            models,
            options.limits.of_images(),
            Readiness(serve.get_replica_context().app_name),
            ImageIds(options.id_secret),
            detect_first=options.detect_first,
        )
        self._options = options

    def __serve_build_asgi_app__(self) -> FastAPI:  # noqa: N807  # the name that Serve looks for
        limits = self._options.limits
        return build(
            self._ingress,
            max_timeout_s=limits.max_timeout_s,
            max_body_s=limits.max_body_s,
            auth=self._options.auth,
            fetcher=Fetcher(self._options.fetch, limits.max_image_bytes),
            admission=self._options.admission,
            access_log=self._options.access_log,
            behind_serve=True,
        )
