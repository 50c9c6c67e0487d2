"""The ingress as a Serve deployment: the HTTP application over handles to the stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments import keys, ray_metrics
from deployments.auth_settings import AuthSettings
from deployments.catalogue import Pair
from deployments.current_app import CurrentApp
from deployments.fetch import Fetcher
from deployments.fetch_settings import FetchSettings
from deployments.http.app import build
from deployments.image_ids import ImageIds
from deployments.in_place import Changes, Requests
from deployments.ingress import Ingress, ServedModel
from deployments.ray_stages import RayStages
from deployments.readiness import Readiness
from deployments.stage_clients import Stages

Handles = Mapping[str, DeploymentHandle[Any]]


@dataclass(frozen=True, slots=True)
class IngressOptions:
    """What every ingress replica is given, the same for all of them."""

    pairs: tuple[Pair, ...]
    requests: Requests
    auth: AuthSettings
    fetch: FetchSettings
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
        self.options = options
        self._models = tuple(
            ServedModel(pair.name, stages_of(pair), pair.aliases, pair.card, pair.short_side) for pair in options.pairs
        )
        self._is_ready = Readiness(serve.get_replica_context().app_name)
        self._requests = options.requests
        self._app = CurrentApp(self._built())
        self._changes = Changes(self.change)

    def __serve_build_asgi_app__(self) -> CurrentApp:  # noqa: N807  # the name that Serve looks for
        return self._app

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Serve's: other limits and defaults for what comes; see `deployments.in_place`."""
        self._changes.take(user_config)

    def change(self, told: Any) -> None:
        """All of `told`, or nothing where a SettingsError is raised."""
        self.hold_against(self.options.requests.changed(told))

    def hold_against(self, requests: Requests) -> None:
        """The application anew, where that makes a difference. Requests under way end as they began; new ones find all
        places of admission free."""
        if requests != self._requests:
            self._requests = requests
            self._app.app = self._built()

    def _built(self) -> FastAPI:
        options, limits = self.options, self._requests.limits
        ingress = Ingress(
            tuple(replace(model, card=_card(model, self._requests)) for model in self._models),
            limits.of_images(),
            self._is_ready,
            ImageIds(options.id_secret),
            detect_first=options.detect_first,
            defaults=self._requests.defaults,
        )
        return build(
            ingress,
            max_timeout_s=limits.max_timeout_s,
            max_body_s=limits.max_body_s,
            auth=options.auth,
            fetcher=Fetcher(options.fetch, limits.max_image_bytes),
            admission=self._requests.admission,
            access_log=options.access_log,
            behind_serve=True,
        )


def _card(model: ServedModel, requests: Requests) -> Mapping[str, Any]:
    """The model's card with what is in force now."""
    card = model.card or {}
    thresholds = requests.defaults.model_dump(exclude_none=True)
    return {**card, "detector": {**card["detector"], **thresholds}, "limits": requests.limits.model_dump()}
