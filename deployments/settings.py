"""Every knob of the service, with its unit, default and reason. Resolved once, where the app is built.

Command line > environment > YAML > defaults. `TEXT2MASK_DETECTOR__MAX_BATCH_SIZE=4` sets `detector.max_batch_size`.
Replicas get the outcome as arguments: they do not share the shell's environment.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PREFIX = "TEXT2MASK_"
NOT_SETTINGS = {"TEXT2MASK_CHECKPOINTS", "TEXT2MASK_HOST", "TEXT2MASK_PORT"}  # read elsewhere

Positive = Annotated[int, Field(ge=1)]


class SettingsError(ValueError):
    """A setting that a person can put right; the text says which and how."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Autoscaling(_Section):
    """How many replicas a stage has, by its load. Without this section: `num_replicas`, fixed."""

    min_replicas: Annotated[int, Field(ge=0)] = 1
    max_replicas: Positive = 1
    target_ongoing_requests: Annotated[float, Field(gt=0, description="running and waiting requests a replica")] = 2


class Replicas(_Section):
    """Placement, common to all deployments."""

    num_replicas: Positive = 1
    num_cpus: Annotated[
        float, Field(ge=0, description="What Ray sets aside, not a limit; small, so that all fit a laptop.")
    ] = 0.2
    num_gpus: Annotated[float, Field(ge=0)] = 0
    max_ongoing_requests: Annotated[
        int, Field(ge=1, description="Requests a replica takes in; the rest wait in the router, which polls.")
    ] = 64
    graceful_shutdown_timeout_s: Annotated[
        float, Field(gt=0, description="How long a replica that stops may finish its work.")
    ] = 60
    health_check_period_s: Annotated[
        float, Field(gt=0, description="A replica that died is missed after this long at most; Serve's own is 10.")
    ] = 2
    autoscaling: Autoscaling | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Replicas:
        if self.autoscaling is not None:
            if self.autoscaling.min_replicas > self.autoscaling.max_replicas:
                raise ValueError("min_replicas must not exceed max_replicas")
            if self.autoscaling.target_ongoing_requests > self.max_ongoing_requests:
                raise ValueError("target_ongoing_requests must not exceed max_ongoing_requests, or it never scales up")
        return self


class StageSettings(Replicas):
    """One of the three models."""

    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    threads: Annotated[
        int, Field(ge=0, description="CPU threads of the model; 0: half of the CPUs, as two stages run side by side.")
    ] = 0
    cpu_threads: Annotated[
        int, Field(ge=1, description="Images decoded, or masks encoded, at the same time beside the model.")
    ] = 2
    max_batch_size: Annotated[int, Field(ge=1, description="Most items in one forward pass.")] = 8
    max_batch_cost: Annotated[
        int | None, Field(ge=1, description="Most summed cost in one forward pass, in the stage's unit; unset: any.")
    ] = None
    longest_batch_s: Annotated[
        float, Field(gt=0, description="Upper estimate of one forward pass, against which shutdown is checked.")
    ] = 30

    @model_validator(mode="after")
    def _coherent_batches(self) -> StageSettings:
        if self.max_ongoing_requests < 2 * self.max_batch_size:
            raise ValueError(
                "max_ongoing_requests must be at least 2 x max_batch_size: "
                "one batch runs while the next one gathers, or the model idles"
            )
        if self.graceful_shutdown_timeout_s <= self.longest_batch_s:
            raise ValueError("graceful_shutdown_timeout_s must exceed longest_batch_s, or a stop drops a running batch")
        return self


class DetectorSettings(StageSettings):
    """Its unit of cost is a caption: many classes make several, each a row of the batch."""

    max_batch_cost: Annotated[
        int | None, Field(ge=1, description="Most captions in one forward pass; a request of more runs in parts.")
    ] = 16


class MaskDecoderSettings(StageSettings):
    """Its unit of cost is a prompt: each holds a low-resolution mask in memory, 260 KB at official sizes."""

    max_batch_cost: Annotated[int | None, Field(ge=1, description="Most prompts in one forward pass.")] = 256


class IngressSettings(Replicas):
    """The HTTP face. It mostly waits for the stages."""

    num_cpus: Annotated[float, Field(ge=0)] = 0.1
    max_ongoing_requests: Annotated[int, Field(ge=1, description="Requests under way in one ingress replica.")] = 256


class Limits(_Section):
    """What a request may ask for. None may exceed its default: the stages refuse more."""

    max_image_bytes: Annotated[int, Field(ge=1, le=32 * 2**20, description="of the encoded file")] = 32 * 2**20
    max_image_pixels: Annotated[int, Field(ge=1, le=50_000_000, description="height x width")] = 50_000_000
    max_timeout_s: Annotated[
        float, Field(gt=0, description="Longest time for one request; also where the caller names none.")
    ] = 120


class Settings(_Section):
    """The whole service."""

    model: Annotated[
        str, Field(min_length=1, description="`tiny`, or detector+segmenter by registry name or bundle folder.")
    ] = "tiny"
    limits: Limits = Limits()
    detector: DetectorSettings = DetectorSettings()
    image_encoder: StageSettings = StageSettings()
    mask_decoder: MaskDecoderSettings = MaskDecoderSettings()
    ingress: IngressSettings = IngressSettings()


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
        *_leaves({name: value for name, value in (command_line or {}).items() if value is not None}),
    ):
        _put(merged, path, value)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in environ.items():
        if name.startswith(PREFIX) and name not in NOT_SETTINGS:
            yield tuple(name.removeprefix(PREFIX).lower().split("__")), value


def _leaves(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in values.items():
        path = (*above, *str(name).split("."))
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, path)
        else:
            yield path, value


def _put(into: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        below = into.setdefault(part, {})
        if not isinstance(below, dict):  # a section that another source gave as a plain value
            below = into[part] = {}
        into = below
    into[path[-1]] = value


def _explain(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    path = [str(part) for part in fault["loc"]]
    where = ".".join(path)
    if fault["type"] == "extra_forbidden":
        known = _names(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"{where}: there is no such setting; {hint}"
    return f"{where or 'settings'}: {fault['msg'].removeprefix('Value error, ')}"


def _names(path: list[str]) -> list[str]:
    section: Any = Settings
    for part in path:
        kind = section.model_fields[part].annotation
        section = Autoscaling if kind == Autoscaling | None else kind
    return list(section.model_fields)


def from_args(args: Mapping[str, Any]) -> Settings:
    """The settings in force for an app builder's `args`: `settings` is the YAML level, all else the command line's."""
    yaml = args.get("settings", {})
    if not isinstance(yaml, Mapping):
        raise SettingsError("settings: must be a mapping")
    return resolve({name: value for name, value in args.items() if name != "settings"}, yaml)
