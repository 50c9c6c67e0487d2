"""Settings -> the bound Serve application. The DAG: detectors, image encoders, mask decoders, one ingress.

`serve run deployments.app:build_app model=tiny auth.mode=none`, `serve deploy configs/local.yaml`, or `text2mask
serve`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from deployments import keys
from deployments import settings as config
from deployments.catalogue import Catalogue, catalogue
from deployments.detector import DetectorDeployment
from deployments.fused import FusedDeployment, placement, stage_settings
from deployments.image_encoder import ImageEncoderDeployment
from deployments.in_place import Requests, of_stage
from deployments.ingress_deployment import IngressDeployment, IngressOptions
from deployments.mask_decoder import MaskDecoderDeployment
from deployments.setting_names import nearest
from deployments.stage_settings import Autoscaling, Replicas, StageAutoscaling
from deployments.versions import OwnVersion, version_of

BY_LOAD = RequestRouterConfig.model_validate({"request_router_class": "deployments.stage_routers.LoadRouter"})
# An image's calls go to the replica that keeps its embedding; while that one is busy, to the least busy one; while it
# is full, to the next two of the ring.
BY_IMAGE = RequestRouterConfig.model_validate(
    {
        "request_router_class": "deployments.stage_routers.ImageRouter",
        "request_router_kwargs": {"num_fallback_replicas": 2},
    }
)

# Over how long Serve's autoscaler looks back, and how often it hears of replicas and callers. Its own 30 s and 10 s are
# longer than a crowd needs to fill every queue. (The variables that Serve names in place of `metrics_interval_s`, its
# 2.60 does not read.)
LOOK_BACK_S = 10.0
METRICS_INTERVAL_S = 2.0


def build_app(args: dict[str, Any]) -> Application:
    """The application that Serve runs.

    Args:
        args: `settings` holds the values of a YAML file; all others count as the command line's, by dotted name.

    Raises:
        SettingsError, BundleError: a person can put it right; nothing was started.
    """
    return build(args, {})


def build(args: Mapping[str, Any], in_place: Mapping[str, Mapping[str, Any]]) -> Application:
    """The same with a `user_config` for each deployment in `in_place`, by name; Serve's builders take one argument.

    They are checked here, where `serve deploy` leaves that to the replicas. So are weight files: once Serve has an
    application, it stops the old replicas of a stage before it knows whether the new ones can start.
    """
    settings = config.from_args(args)
    offer = catalogue(settings)
    offer.check_weights()
    options = options_of(settings, offer)
    _check(in_place, _changeable(settings, offer, options.requests))
    # The ingress's own access line says more than Serve's: one of them is enough.
    deploy_ingress = partial(_deploy, in_place, settings.logging.of_serve(access=False))
    if settings.fused:
        fused = serve.ingress()(FusedDeployment)
        place = placement(settings.ingress, offer)
        return deploy_ingress(fused, "ingress", place, offer.detectors, offer.segmenters, options)

    deploy = partial(_deploy, in_place, settings.logging.of_serve(), request_router_config=BY_LOAD)
    # Each model is one deployment; handles of all of them are arguments of the ingress.
    detectors = {
        name: deploy(DetectorDeployment, f"detector-{name}", one.deployment, one.bundle, one.deployment)
        for name, one in offer.detectors.items()
    }
    image_encoders = {
        name: deploy(
            ImageEncoderDeployment,
            f"image-encoder-{name}",
            one.image_encoder,
            one.bundle,
            one.image_encoder,
            request_router_config=BY_IMAGE,
        )
        for name, one in offer.segmenters.items()
    }
    mask_decoders = {
        name: deploy(MaskDecoderDeployment, f"mask-decoder-{name}", one.mask_decoder, one.bundle, one.mask_decoder)
        for name, one in offer.segmenters.items()
    }
    ingress = serve.ingress()(IngressDeployment)
    return deploy_ingress(ingress, "ingress", settings.ingress, detectors, image_encoders, mask_decoders, options)


def options_of(settings: config.Settings, offer: Catalogue) -> IngressOptions:
    """What every ingress replica is given. Raises SettingsError, of keys."""
    return IngressOptions(
        pairs=offer.pairs,
        requests=Requests(
            limits=settings.limits,
            admission=settings.admission,
            defaults=settings.defaults,
            max_ongoing_requests=settings.ingress.max_ongoing_requests,
        ),
        fetch=settings.fetch,
        auth=keys.gather(settings.auth),
        detect_first=settings.detect_first,
        id_secret=settings.id_secret or secrets.token_hex(32),  # one for all ingress replicas
        access_log=settings.logging.access,
    )


def _changeable(settings: config.Settings, offer: Catalogue, requests: Requests) -> dict[str, Callable[[Any], object]]:
    """What each deployment would make of a `user_config`, by name. They raise SettingsError."""
    if settings.fused:
        return {"ingress": partial(requests.changed, stages=stage_settings(offer.detectors, offer.segmenters))}
    checks: dict[str, Callable[[Any], object]] = {"ingress": requests.changed}
    for name, detector in offer.detectors.items():
        checks[f"detector-{name}"] = partial(of_stage, detector.deployment)
    for name, segmenter in offer.segmenters.items():
        checks[f"image-encoder-{name}"] = partial(of_stage, segmenter.image_encoder)
        checks[f"mask-decoder-{name}"] = partial(of_stage, segmenter.mask_decoder)
    return checks


def _check(in_place: Mapping[str, Any], checks: Mapping[str, Callable[[Any], object]]) -> None:
    for name, told in in_place.items():
        if name not in checks:
            near = nearest(name, list(checks))
            hint = f"did you mean {near}?" if near else f"there are {', '.join(checks)}"
            raise config.SettingsError(f"deployments: there is no {name!r}; {hint}")
        try:
            checks[name](told)
        except config.SettingsError as error:
            raise config.SettingsError(f"deployments: {name}: {error}") from None


def _deploy(
    in_place: Mapping[str, Any],
    logging_config: dict[str, object],
    kind: type,
    name: str,
    replicas: Replicas,
    *arguments: Any,
    **options: Any,
) -> Application:
    """`kind(*arguments)` as a deployment called `name`, placed as `replicas` says."""
    scale: dict[str, Any] = {"num_replicas": replicas.num_replicas}
    if replicas.autoscaling is not None:
        scale = {"autoscaling_config": autoscaling_config(replicas.autoscaling)}
    deployment: Any = serve.deployment(
        kind,
        name=name,
        ray_actor_options={
            "num_cpus": replicas.num_cpus,
            "num_gpus": replicas.num_gpus,
            "resources": dict(replicas.resources),
        },
        max_ongoing_requests=replicas.max_ongoing_requests,
        graceful_shutdown_timeout_s=replicas.graceful_shutdown_timeout_s,
        max_surge_percent=replicas.max_surge_percent,
        graceful_shutdown_wait_loop_s=0.5,  # Serve's 2 s would be the least time for any stop
        health_check_period_s=replicas.health_check_period_s,
        logging_config=logging_config,
        user_config=in_place.get(name, {}),  # never none: of none, Serve tells a replica nothing
        **scale,
        **options,
    )
    deployment._deployment_config = OwnVersion.of(deployment._deployment_config, version_of(kind, arguments))
    bound: Application = deployment.bind(*arguments)
    return bound


def autoscaling_config(autoscaling: Autoscaling) -> dict[str, Any]:
    """Serve's form of it."""
    names = {"min_replicas", "max_replicas", "upscale_delay_s", "downscale_delay_s", "downscale_to_zero_delay_s"}
    config: dict[str, Any] = autoscaling.model_dump(include=names)
    if autoscaling.ongoing is not None:
        config["target_ongoing_requests"] = autoscaling.ongoing
    elif isinstance(autoscaling, StageAutoscaling):
        kwargs = {"target_queue_s": autoscaling.target_queue_s}
        config["policy"] = {"policy_function": "deployments.autoscaling:QueueTimePolicy", "policy_kwargs": kwargs}
    return {**config, "look_back_period_s": LOOK_BACK_S, "metrics_interval_s": METRICS_INTERVAL_S}
