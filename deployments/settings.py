"""Every knob of the service, with its unit, default and reason. Resolved once, where the app is built.

Command line > environment > YAML > defaults. `TEXT2MASK_DETECTOR__MAX_BATCH_SIZE=4` sets `detector.max_batch_size`.
Replicas get the outcome as arguments: they do not share the shell's environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from deployments.admission_settings import AdmissionSettings, Defaults, Limits
from deployments.auth_settings import AuthSettings
from deployments.fetch_settings import FetchSettings
from deployments.observe_settings import LoggingSettings, TracingSettings
from deployments.setting_names import SettingsError as SettingsError
from deployments.setting_names import unknown
from deployments.setting_sources import leaves, nested, parsed, put, section_of
from deployments.stage_settings import (
    DetectorSettings,
    ImageEncoderSettings,
    IngressSettings,
    MaskDecoderSettings,
    Section,
)

PREFIX = "TEXT2MASK_"
# Read elsewhere; the key is that of a client.
NOT_SETTINGS = {f"{PREFIX}{name}" for name in ("CHECKPOINTS", "FONT", "HOST", "KEY", "METRICS_PORT", "PORT")}
# Kubernetes sets these in every pod for each service whose name begins so.
_OF_KUBERNETES = re.compile(r"TEXT2MASK_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)")


class DetectorEntry(Section):
    """One detector on offer. What is left out of `deployment` is as in the section `detector`."""

    model: Annotated[str, Field(min_length=1, description="A registry name, or a bundle's folder.")]
    deployment: Annotated[
        DetectorSettings | None, Field(description="As the section `detector`, for this one alone.")
    ] = None


class SegmenterEntry(Section):
    """One segmenter on offer: two deployments. What is left out of them is as in their sections."""

    model: Annotated[str, Field(min_length=1, description="A registry name, or a bundle's folder.")]
    image_encoder: Annotated[
        ImageEncoderSettings | None, Field(description="As the section `image_encoder`, for this one alone.")
    ] = None
    mask_decoder: Annotated[
        MaskDecoderSettings | None, Field(description="As the section `mask_decoder`, for this one alone.")
    ] = None


class Settings(Section):
    """The whole service."""

    model: Annotated[
        str | None,
        Field(
            min_length=1,
            description="The pair that a request without one gets: `tiny`, or detector+segmenter by registry name or "
            "bundle folder. Unset: the first of each list, or `tiny` where there is no list.",
        ),
    ] = None
    detectors: Annotated[
        tuple[DetectorEntry, ...], Field(description="On offer, each with every segmenter; empty: that of `model`.")
    ] = ()
    segmenters: Annotated[
        tuple[SegmenterEntry, ...], Field(description="On offer, each with every detector; empty: that of `model`.")
    ] = ()
    aliases: Annotated[
        dict[str, str], Field(description="Other names for pairs; `tiny` stands for `tiny+tiny` without being told.")
    ] = {}
    fused: Annotated[
        bool,
        Field(
            description="All stages in the ingress's process, for a small machine or one GPU: no hop and no copy "
            "between them, and they no longer scale apart. Stages keep their batches, threads and devices; a replica "
            "sets aside what all of them would."
        ),
    ] = False
    detect_first: Annotated[
        bool,
        Field(
            description="Encode an image once something was found in it: saves the encoder where prompts often find "
            "nothing, and adds the detector's time to each answer."
        ),
    ] = False
    id_secret: Annotated[
        str | None,
        Field(
            repr=False,
            min_length=16,
            description="Key of image ids. Unset: drawn when the app is built, so ids end with it. Set it where ids "
            "must outlive a redeployment.",
        ),
    ] = None
    auth: AuthSettings = AuthSettings()
    fetch: FetchSettings = FetchSettings()
    admission: AdmissionSettings = AdmissionSettings()
    limits: Limits = Limits()
    defaults: Defaults = Defaults()
    detector: DetectorSettings = DetectorSettings()
    image_encoder: ImageEncoderSettings = ImageEncoderSettings()
    mask_decoder: MaskDecoderSettings = MaskDecoderSettings()
    ingress: IngressSettings = IngressSettings()
    logging: LoggingSettings = LoggingSettings()
    tracing: TracingSettings = TracingSettings()

    @model_validator(mode="after")
    def _refuses_at_once(self) -> Settings:
        if self.ingress.max_ongoing_requests <= self.admission.max_requests:
            raise ValueError(
                "ingress.max_ongoing_requests must exceed admission.max_requests: "
                "what is to be refused would wait in the router"
            )
        return self


def resolve(
    command_line: Mapping[str, Any] | None = None,
    yaml: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The settings in force.

    Args:
        command_line: values by dotted name (`detector.threads`) or nested; None values count as not given.
        yaml: nested values, as in a file.
        environ: `os.environ` by default; of it, names that begin with `TEXT2MASK_`. Here and on the command line
            lists, mappings and whole sections are JSON, and `null` is none.

    Raises:
        SettingsError: an unknown name, a wrong value, or values that do not fit together.
    """
    given = nested({name: value for name, value in (command_line or {}).items() if value is not None})
    merged: dict[str, Any] = {}
    for path, value in (
        *leaves(yaml or {}),
        *_texts(_from_environment(os.environ if environ is None else environ)),
        *_texts(leaves(given)),
    ):
        put(merged, path, value)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(explain(error)) from None


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], Any]]:
    # In this order a whole section (`TEXT2MASK_DETECTOR`) comes before one of its settings, which has the last word.
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIX) or name in NOT_SETTINGS or _OF_KUBERNETES.fullmatch(name):
            continue
        path = tuple(name.removeprefix(PREFIX).lower().split("__"))
        if path[0] not in Settings.model_fields:
            raise SettingsError(f"the environment variable {name}: {unknown(path[0], list(Settings.model_fields))}")
        yield path, value


def _texts(found: Iterator[tuple[tuple[str, ...], Any]]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """`found`, with texts read as what the setting at their place holds."""
    for path, text in found:
        value = parsed(Settings, path, text)
        yield from leaves(value, path) if isinstance(value, Mapping) and value else ((path, value),)


def explain(error: ValidationError) -> str:
    """The first fault, for the person who wrote the settings."""
    fault = error.errors(include_url=False)[0]
    path = [str(part) for part in fault["loc"]]
    where = ".".join(path)
    if fault["type"] == "extra_forbidden":
        known = _names(path[:-1])
        if path[0] == "auth":  # it may be a key, one line too high
            return f"{'.'.join(path[:-1])}: a name here is not one of {', '.join(known)}"
        return f"{where}: {unknown(path[-1], known)}"
    return f"{where or 'settings'}: {fault['msg'].removeprefix('Value error, ')}"


def _names(path: list[str]) -> list[str]:
    """What there is in the section that `path` leads to; list indices are passed over."""
    section: Any = Settings
    for part in path:
        if not part.isdigit():
            section = section_of(section.model_fields[part].annotation)
    return list(section.model_fields)


def from_args(args: Mapping[str, Any]) -> Settings:
    """The settings in force for an app builder's `args`: `settings` is the YAML level, all else the command line's."""
    yaml = args.get("settings", {})
    if not isinstance(yaml, Mapping):
        raise SettingsError("settings: must be a mapping")
    for name in args:
        if name.split(".")[0] not in (known := ("settings", *Settings.model_fields)):
            raise SettingsError(f"{name}: {unknown(name, known)}")
    return resolve({name: value for name, value in args.items() if name != "settings"}, yaml)
