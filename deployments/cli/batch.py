"""`text2mask batch`: a whole bucket or folder, on this machine or a cluster, as often as it takes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deployments.cli import query as options
from deployments.cli.complaints import INTERRUPTED, FailedError, UsageError, complain, readable_errors
from deployments.cli.service import PANEL as RUNS
from deployments.cli.storage import Anonymous, EndpointUrl, Region, StorageTimeout, storage_options

if TYPE_CHECKING:
    from deployments.settings import Settings

Shown = Literal["auto", "rich", "json", "none"]

OUT = "Output"

EPILOG = """
[bold]Examples[/bold]

text2mask batch photos "car, wheel" --out labels

text2mask batch s3://bucket/photos "car, wheel" --out s3://bucket/labels --model swint+vit_b --device cuda

text2mask batch s3://bucket/to-label.parquet --out s3://bucket/labels --endpoint-url https://minio.example

text2mask batch photos "car, wheel" --out labels --retry-errors

[bold]Exit codes[/bold]

0 every image has a row, with its error where it has one; 1 the job could not go on, or --strict and an image has an
error; 2 the command is wrong, and nothing was done; 130 Ctrl-C, what was done is kept.
"""


def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A folder, a quoted pattern, s3://, gs:// or abfs://; or a manifest, .parquet or .jsonl: a column "
            "path or bytes, and prompt where images have words of their own.",
        ),
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(show_default=False, help='What to look for, separated by commas: "red circle, star".'),
    ] = None,
    *,
    out: Annotated[
        str,
        typer.Option(
            metavar="OUTPUT", rich_help_panel=OUT, help="A folder or URI. What it has already is not done again."
        ),
    ],
    prompt_file: options.PromptFile = None,
    mode: options.Mode = "classes",
    negative_prompt: options.NegativePrompt = None,
    box_threshold: options.BoxThreshold = None,
    text_threshold: options.TextThreshold = None,
    nms: options.Nms = "class",
    nms_threshold: options.NmsThreshold = 0.7,
    negative_iou: options.NegativeIou = 0.5,
    min_area: options.MinArea = 0.0,
    max_area: options.MaxArea = 1.0,
    max_detections: options.MaxDetections = 100,
    multimask: options.Multimask = False,
    raw: options.Raw = False,
    tile: options.Tile = None,
    masks: Annotated[
        Literal["rle", "none"], typer.Option(rich_help_panel=OUT, help="none: boxes alone, and SAM is not loaded.")
    ] = "rle",
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", rich_help_panel=OUT, help="Do those again that have an error.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel=OUT, help="Begin anew, whatever the output holds.")
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", rich_help_panel=OUT, help="Another run seems to write there, and you know better."),
    ] = False,
    commit_every: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=30,
            metavar="S",
            rich_help_panel=OUT,
            help="Seconds after which what is done is written, at the latest: what a crash costs.",
        ),
    ] = 30,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", rich_help_panel=OUT, help="The first N images: for a look.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", rich_help_panel=OUT, help="Exit with 1 where an image has an error.")
    ] = False,
    progress: Annotated[
        Shown,
        typer.Option(
            rich_help_panel=OUT,
            help="rich: a display, on standard error; json: a line every few seconds, on standard output; auto: rich "
            "in a terminal, else json.",
        ),
    ] = "auto",
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    anonymous: Anonymous = False,
    storage_timeout: StorageTimeout = 30,
    model: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=RUNS,
            help="`tiny` comes along and knows drawings; real photographs want detector+segmenter, such as "
            "swint+vit_b. Unset: tiny.",
        ),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option(rich_help_panel=RUNS, help="cuda: each worker takes half a GPU, unless --config says otherwise."),
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(
            rich_help_panel=RUNS, help="Of the models; bfloat16 is faster on a GPU, with slightly other answers."
        ),
    ] = None,
    detector_replicas: Annotated[
        str,
        typer.Option(
            metavar="N|LEAST:MOST", rich_help_panel=RUNS, help="Detectors; with a range, as many as have work."
        ),
    ] = "1",
    segmenter_replicas: Annotated[
        str,
        typer.Option(
            metavar="N|LEAST:MOST", rich_help_panel=RUNS, help="Image encoders, each with a mask decoder beside it."
        ),
    ] = "1",
    config: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=RUNS,
            help="A file as `text2mask serve` takes it: devices, batches, CPUs and GPUs of the stages, limits, fetch.",
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            envvar="RAY_ADDRESS",
            rich_help_panel=RUNS,
            help="A running Ray; auto finds one on this machine. Unset: one of its own.",
        ),
    ] = None,
) -> None:
    """Label a bucket, a folder or a list of images, on this machine or a cluster.

    One row an image, in parquet, with its masks or its error. Interrupted, even killed, the same command goes on where
    it was: every image is there exactly once. `text2mask export` makes COCO, PNGs and pictures of it.
    """
    with readable_errors(), _refusals():
        if prompt is not None and prompt_file is not None:
            raise UsageError("the prompt is either an argument or --prompt-file, not both")
        wanted = options.read_prompt_file(prompt_file) if prompt_file is not None else prompt
        query = options.read(
            "anything" if wanted is None else wanted,
            mode=mode,
            negative_prompt=negative_prompt,
            box_threshold=box_threshold,
            text_threshold=text_threshold,
            nms=nms,
            nms_threshold=nms_threshold,
            negative_iou=negative_iou,
            min_area=min_area,
            max_area=max_area,
            max_detections=max_detections,
            multimask=multimask,
            raw=raw,
            tile=tile,
        )
        storage = storage_options(endpoint_url, region, anonymous, storage_timeout)
        done = _run(
            progress,
            source,
            wanted,
            out,
            masks=masks == "rle",
            detector_replicas=detector_replicas,
            segmenter_replicas=segmenter_replicas,
            storage=storage,
            settings=_settings(config, model, device, precision),
            ray_address=ray_address,
            overwrite=overwrite,
            retry_errors=retry_errors,
            take_over=take_over,
            commit_every_s=commit_every,
            limit=limit,
            **query.fields,
        )
        if strict and done.failed:
            raise FailedError(f"{done.failed} images have an error, and --strict was given")


def _run(shown: Shown, source: str, prompt: Any, out: str, **rest: Any) -> Any:
    # Ray's C++ writes warnings past every logger, into the display. What ends a job is told by exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    from deployments.cli.job_progress import display, summary
    from deployments.jobs.run import run_batch

    with display(shown) as tell:
        try:
            done = run_batch(source, prompt, out, on_progress=tell, **rest)
        except KeyboardInterrupt:
            complain("interrupted; what was done is kept, and the same command goes on")
            raise typer.Exit(INTERRUPTED) from None
    if shown != "none":
        summary(done, out)
    return done


@contextmanager
def _refusals() -> Iterator[None]:
    """What is refused before anything is done is a matter of the command; what comes later is a JobError."""
    from deployments.jobs.inputs import InputError
    from deployments.jobs.manifest import OutputError
    from deployments.jobs.storage import StorageError
    from deployments.settings import SettingsError
    from pipeline.errors import StageError
    from pipeline.models.registry import BundleError

    try:
        yield
    except (BundleError, InputError, OutputError, SettingsError, StageError, StorageError) as error:
        raise UsageError(str(error)) from None


def _settings(config: Path | None, model: str | None, device: str | None, precision: str | None) -> Settings:
    """The stages' settings: options, environment, file, in this order."""
    from deployments import config_file
    from deployments import settings as settings_of

    args = {} if config is None else config_file.read(config).args
    given = {"model": model}
    for stage in ("detector", "image_encoder", "mask_decoder"):
        given |= {f"{stage}.device": device, f"{stage}.precision": precision}
    return settings_of.from_args({**args, **{name: value for name, value in given.items() if value is not None}})
