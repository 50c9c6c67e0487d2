"""Settings -> the bound Serve application. The DAG: one detector, one image encoder, one mask decoder, one ingress.

`serve run deployments.app:build_app model=tiny`, `serve deploy configs/local.yaml`, or `text2mask serve`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ray import serve
from ray.serve import Application

from deployments import settings as config
from deployments.detector import DetectorDeployment
from deployments.image_encoder import ImageEncoderDeployment
from deployments.ingress_deployment import IngressDeployment
from deployments.mask_decoder import MaskDecoderDeployment
from pipeline.bundle import Bundle, resolve, split_model_name
from pipeline.models.architectures import detector_architecture


def build_app(args: dict[str, Any]) -> Application:
    """The application that Serve runs.

    Args:
        args: `settings` holds the values of a YAML file; all others count as the command line's, by dotted name.

    Raises:
        SettingsError, BundleError: a person can put it right; nothing was started.
    """
    settings = config.from_args(args)
    names = split_model_name(settings.model)
    detector, segmenter = _absolute(resolve(names[0], "detector")), _absolute(resolve(names[1], "segmenter"))

    # Each line is one deployment; handles of the first three are arguments of the last.
    detect = _deploy(DetectorDeployment, f"detector-{detector.name}", settings.detector, detector, settings.detector)
    encode = _deploy(
        ImageEncoderDeployment,
        f"image-encoder-{segmenter.name}",
        settings.image_encoder,
        segmenter,
        settings.image_encoder,
    )
    decode = _deploy(
        MaskDecoderDeployment, f"mask-decoder-{segmenter.name}", settings.mask_decoder, segmenter, settings.mask_decoder
    )
    card = _describe(detector, segmenter, settings.limits)
    ingress = serve.ingress()(IngressDeployment)
    return _deploy(ingress, "ingress", settings.ingress, detect, encode, decode, card, settings.limits)


def _deploy(kind: type, name: str, replicas: config.Replicas, *arguments: Any) -> Application:
    """`kind(*arguments)` as a deployment called `name`, placed as `replicas` says."""
    scale: dict[str, Any] = {"num_replicas": replicas.num_replicas}
    if replicas.autoscaling is not None:
        scale = {"autoscaling_config": replicas.autoscaling.model_dump()}
    deployment: Any = serve.deployment(
        kind,
        name=name,
        ray_actor_options={"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus},
        max_ongoing_requests=replicas.max_ongoing_requests,
        graceful_shutdown_timeout_s=replicas.graceful_shutdown_timeout_s,
        graceful_shutdown_wait_loop_s=0.5,  # Serve's 2 s would be the least time for any stop
        health_check_period_s=replicas.health_check_period_s,
        **scale,
    )
    bound: Application = deployment.bind(*arguments)
    return bound


def _absolute(bundle: Bundle) -> Bundle:
    """`bundle` as a replica finds it, whose working directory is another one."""
    vocabulary = None if bundle.vocabulary is None else bundle.vocabulary.resolve()
    return replace(bundle, weights=bundle.weights.resolve(), vocabulary=vocabulary)


def _describe(detector: Bundle, segmenter: Bundle, limits: config.Limits) -> dict[str, Any]:
    """What a `ServedModel` needs beside its stages; paths and hashes stay inside."""
    return {
        "name": f"{detector.name}+{segmenter.name}",
        "aliases": (detector.name,) if detector.name == segmenter.name else (),
        "card": {
            "detector": {
                "name": detector.name,
                "licence": detector.licence,
                "box_threshold": detector.box_threshold,
                "text_threshold": detector.text_threshold,
                "max_tokens": detector.max_tokens,
            },
            "segmenter": {"name": segmenter.name, "licence": segmenter.licence},
            "limits": limits.model_dump(),
        },
        "short_side": detector_architecture(detector.architecture).short_side,
    }
