"""Knobs of the deployments: placement, scaling, batches. `deployments.settings` puts them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Autoscaling(Section):
    """Bounds and delays, whatever decides. Without this section: `num_replicas`, fixed."""

    min_replicas: Annotated[
        int, Field(ge=0, description="0: none while nobody asks; the first request then waits for one to start.")
    ] = 1
    max_replicas: Annotated[int, Field(ge=1, description="As many as the cluster has room, or money, for.")] = 1
    upscale_delay_s: Annotated[
        float, Field(ge=0, description="For how long more replicas must be wanted before they are started.")
    ] = 3
    downscale_delay_s: Annotated[
        float,
        Field(
            ge=10,
            description="For how long fewer must be enough before replicas are stopped: longer than a start takes, or "
            "the next crowd waits for it again.",
        ),
    ] = 120
    downscale_to_zero_delay_s: Annotated[
        float, Field(ge=10, description="The same for the last replica, whose next caller waits for a start.")
    ] = 600

    @property
    def ongoing(self) -> float | None:
        """Requests a replica that Serve's own policy aims at; None where another one decides."""
        return None


class IngressAutoscaling(Autoscaling):
    """How many ingress replicas there are, by requests under way. Without this section: `num_replicas`, fixed."""

    target_ongoing_requests: Annotated[
        float,
        Field(gt=0, description="Running and waiting requests a replica; more of them bring another replica."),
    ] = 2

    @property
    def ongoing(self) -> float:
        return self.target_ongoing_requests


class StageAutoscaling(Autoscaling):
    """How many replicas a stage has, by the work that waits. Without this section: `num_replicas`, fixed."""

    policy: Annotated[
        Literal["queue_time", "ongoing_requests"],
        Field(
            description="What decides: `queue_time`, the seconds of work that wait before a replica, and how busy they "
            "are; `ongoing_requests`, Serve's own, requests under way, whatever they ask for."
        ),
    ] = "queue_time"
    target_queue_s: Annotated[
        float,
        Field(
            gt=0,
            description="For `queue_time`: seconds of work that may wait before a replica. Longer than a full batch "
            "takes, or batches do not fill before replicas are added.",
        ),
    ] = 1
    target_ongoing_requests: Annotated[
        float | None,
        Field(gt=0, description="For `ongoing_requests` alone: running and waiting requests a replica; unset: 2."),
    ] = None

    @property
    def ongoing(self) -> float | None:
        return None if self.policy == "queue_time" else self.target_ongoing_requests or 2.0

    @model_validator(mode="after")
    def _read(self) -> StageAutoscaling:
        if self.policy == "queue_time" and self.target_ongoing_requests is not None:
            raise ValueError("target_ongoing_requests is for `policy: ongoing_requests`; here target_queue_s decides")
        return self


class Replicas(Section):
    """Placement, common to all deployments."""

    num_replicas: Annotated[int, Field(ge=1, description="Copies of this deployment; see also `autoscaling`.")] = 1
    num_cpus: Annotated[
        float, Field(ge=0, description="What Ray sets aside, not a limit; small, so that all fit a laptop.")
    ] = 0.2
    num_gpus: Annotated[
        float, Field(ge=0, description="GPUs that Ray sets aside; 0.3 lets three stages share one. Goes with `device`.")
    ] = 0
    resources: Annotated[
        dict[str, Annotated[float, Field(gt=0)]],
        Field(
            description="Resources of your own naming that Ray sets aside, besides CPUs and GPUs: `{detector: 0.01}` "
            "keeps replicas on nodes that were started with some of it (`ray start --resources`)."
        ),
    ] = {}
    max_ongoing_requests: Annotated[
        int,
        Field(
            ge=1,
            description="Requests of one caller in a replica at a time; the rest wait in its router, which polls.",
        ),
    ] = 64
    graceful_shutdown_timeout_s: Annotated[
        float, Field(gt=0, description="How long a replica that stops may finish its work.")
    ] = 60
    max_surge_percent: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description="Replicas that may run beside all others while a change replaces them, rounded up (1: one "
            "more): above 0 the new one is warm before an old one stops, and the change waits for room. 0: an old one "
            "stops first, which needs no room; where it is the only one, requests wait for the new one, as far as "
            "their deadline allows.",
        ),
    ] = 0
    health_check_period_s: Annotated[
        float, Field(gt=0, description="A replica that died is missed after this long at most; Serve's own is 10.")
    ] = 2
    autoscaling: Autoscaling | None = None

    @model_validator(mode="after")
    def _coherent(self) -> Replicas:
        if self.autoscaling is not None:
            if self.autoscaling.min_replicas > self.autoscaling.max_replicas:
                raise ValueError("min_replicas must not exceed max_replicas")
            if (self.autoscaling.ongoing or 0) > self.max_ongoing_requests:
                raise ValueError("target_ongoing_requests must not exceed max_ongoing_requests, or it never scales up")
        return self


def resources_of(together: Sequence[Replicas]) -> dict[str, float]:
    """What deployments that share a process set aside of each custom resource."""
    names = dict.fromkeys(name for one in together for name in one.resources)
    return {name: round(sum(one.resources.get(name, 0) for one in together), 4) for name in names}


class StageSettings(Replicas):
    """One of the three models."""

    autoscaling: StageAutoscaling | None = None
    device: Annotated[
        str, Field(pattern=r"^(cpu|cuda(:\d+)?)$", description="`cpu`, `cuda` or `cuda:N`: where the model computes.")
    ] = "cpu"
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"],
        Field(
            description="Of the model's layers, where they can be less precise. `bfloat16` is faster on a GPU, with "
            "slightly other answers; on a CPU it gains little or is slower. `float16` rounds more finely, overflows "
            "sooner, and takes a CPU several times as long."
        ),
    ] = "float32"
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
    keep_freed_memory: Annotated[
        bool,
        Field(
            description="The replica's process keeps what it frees: page faults otherwise take a third of a model's "
            "CPU time. It stays as large as it ever was; false where that memory is wanted elsewhere."
        ),
    ] = True
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
    """Its unit of cost is a caption on up to 0.54 megapixels: many classes make several, each a row of the batch."""

    max_batch_cost: Annotated[
        int | None,
        Field(
            ge=1,
            description="Most captions in one forward pass, each counted once for every 0.54 megapixels (or part) of "
            "its resized image: one at 800x1333 as 2. Time and memory go with both. A request of more runs in parts, "
            "and others wait for one part at most; with fewer in a part a long request takes longer.",
        ),
    ] = 8
    shapes: Annotated[
        Literal["exact", "buckets"],
        Field(
            description="What a resized image is padded to: `exact`, nothing that its model does not need; `buckets`, "
            "one of few shapes by its aspect, so that more images share a batch, with slightly other answers."
        ),
    ] = "exact"


class ImageEncoderSettings(StageSettings):
    """It keeps images and their embeddings, so that a second prompt on an image costs no second encoding."""

    max_batch_cost: Annotated[
        int | None,
        Field(ge=1, description="Most images in one forward pass; unset: `max_batch_size`, as all are of one size."),
    ] = None
    compile: Annotated[
        bool,
        Field(
            description="Compile the model when a replica starts, for batches of 1, 2, 4 and 8, and on a GPU record "
            "each as one launch. Off, as a start then takes minutes, and needs a C++ compiler; a CPU gains nothing."
        ),
    ] = False
    cache_bytes: Annotated[
        int,
        Field(
            ge=0,
            description="Bytes and embeddings of images that a replica keeps, least recently used first out; 0: none. "
            "An official embedding takes 4 MiB.",
        ),
    ] = 256 * 2**20


class MaskDecoderSettings(StageSettings):
    """Its unit of cost is a prompt: each holds a low-resolution mask in memory, 260 KB at official sizes."""

    max_batch_cost: Annotated[
        int | None,
        Field(
            ge=1,
            description="Most prompts in one forward pass; one with alternatives counts as 3, and every 50 points of "
            "an instance as one more, for their time. A request of more runs in parts, and others wait for one part at "
            "most; time goes with the number, so a larger one saves little.",
        ),
    ] = 32


class IngressSettings(Replicas):
    """The HTTP face. It mostly waits for the stages."""

    autoscaling: IngressAutoscaling | None = None
    num_cpus: Annotated[float, Field(ge=0, description="What Ray sets aside, not a limit.")] = 0.1
    max_ongoing_requests: Annotated[int, Field(ge=1, description="Requests under way in one ingress replica.")] = 256
