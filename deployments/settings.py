"""Every knob of the service, with its unit, default and reason. Resolved once, where the app is built.

Command line > environment > YAML > defaults. `TEXT2MASK_DETECTOR__MAX_BATCH_SIZE=4` sets `detector.max_batch_size`.
Replicas get the outcome as arguments: they do not share the shell's environment.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from deployments.admission_settings import AdmissionSettings, Limits
from deployments.auth_settings import AuthSettings
from deployments.fetch_settings import FetchSettings
from deployments.observe_settings import LoggingSettings, TracingSettings
from deployments.stage_settings import (
    DetectorSettings,
    ImageEncoderSettings,
    IngressSettings,
    MaskDecoderSettings,
    Section,
)

PREFIX = "TEXT2MASK_"
# Read elsewhere; the key is that of a client.
NOT_SETTINGS = {"TEXT2MASK_CHECKPOINTS", "TEXT2MASK_FONT", "TEXT2MASK_HOST", "TEXT2MASK_KEY", "TEXT2MASK_PORT"}
# Kubernetes sets these in every pod for each service whose name begins so.
_OF_KUBERNETES = re.compile(r"TEXT2MASK_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)")


class SettingsError(ValueError):
    """A setting that a person can put right; the text says which and how."""


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
        environ: `os.environ` by default; of it, names that begin with `TEXT2MASK_`.

    Raises:
        SettingsError: an unknown name, a wrong value, or values that do not fit together.
    """
    merged: dict[str, Any] = {}
    for path, value in (
        *_leaves(yaml or {}),
        *_from_environment(os.environ if environ is None else environ),
        *_leaves(_nested({name: value for name, value in (command_line or {}).items() if value is not None})),
    ):
        _put(merged, path, value)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(explain(error)) from None


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name in NOT_SETTINGS or _OF_KUBERNETES.fullmatch(name):
            continue
        path = tuple(name.removeprefix(PREFIX).lower().split("__"))
        if path[0] not in Settings.model_fields:
            raise SettingsError(f"the environment variable {name}: {_unknown(path[0], list(Settings.model_fields))}")
        yield path, value


def _leaves(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in values.items():
        path = (*above, str(name))
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, path)
        else:
            yield path, value


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` -> `{"a": {"b": 1}}`. Only the command line has dotted names; an alias in a file may hold a dot."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        _put(found, tuple(name.split(".")), value)
    return found


def _put(into: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        below = into.setdefault(part, {})
        if not isinstance(below, dict):  # a section that another source gave as a plain value
            below = into[part] = {}
        into = below
    into[path[-1]] = value


def explain(error: ValidationError) -> str:
    """The first fault, for the person who wrote the settings."""
    fault = error.errors(include_url=False)[0]
    path = [str(part) for part in fault["loc"]]
    where = ".".join(path)
    if fault["type"] == "extra_forbidden":
        known = _names(path[:-1])
        if path[0] == "auth":  # it may be a key, one line too high
            return f"{'.'.join(path[:-1])}: a name here is not one of {', '.join(known)}"
        return f"{where}: {_unknown(path[-1], known)}"
    return f"{where or 'settings'}: {fault['msg'].removeprefix('Value error, ')}"


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"there is no such setting; {hint}"


def _names(path: list[str]) -> list[str]:
    """What there is in the section that `path` leads to; list indices are passed over."""
    section: Any = Settings
    for part in path:
        if not part.isdigit():
            section = _section(section.model_fields[part].annotation)
    return list(section.model_fields)


def _section(annotation: Any) -> Any:
    """The model in `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(found for one in get_args(annotation) if one is not type(None) for found in [_section(one)])


def from_args(args: Mapping[str, Any]) -> Settings:
    """The settings in force for an app builder's `args`: `settings` is the YAML level, all else the command line's."""
    yaml = args.get("settings", {})
    if not isinstance(yaml, Mapping):
        raise SettingsError("settings: must be a mapping")
    return resolve({name: value for name, value in args.items() if name != "settings"}, yaml)
