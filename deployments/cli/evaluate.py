"""`text2mask eval`: how right answers are, by COCO's or LVIS's average precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from deployments.cli import arguments, eval_options, work
from deployments.cli import query as options
from deployments.cli.complaints import FAILED, FailedError, UsageError, readable_errors
from deployments.cli.outputs import replacing
from deployments.cli.service import PANEL as RUNS
from deployments.cli.service import Key, Server
from deployments.cli.storage import Anonymous, EndpointUrl, Region, StorageTimeout, storage_options

TRUTH, OUT = "What is true", "Figures"

EPILOG = """
[bold]Examples[/bold]

text2mask eval --annotations instances_val2017.json --images val2017 --model swint+vit_b --device cuda

text2mask eval --annotations labels.json --images s3://bucket/photos --mode served --box-threshold 0.4

text2mask eval --annotations labels.json --images photos --mode served --server https://masks.example --json now.json

[bold]Exit codes[/bold]

0 every image has an answer; 1 an image has none, or the service cannot be reached; 2 the command is wrong, and nothing
was done; 130 Ctrl-C.
"""


def evaluate(
    annotations: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            rich_help_panel=TRUTH,
            help="COCO's instances.json, or LVIS's: a path or URI. Its categories' names are the prompt, by id.",
        ),
    ],
    images: Annotated[
        str,
        typer.Option(
            metavar="URI",
            rich_help_panel=TRUTH,
            help="The folder below which every file_name lies: a path, s3://, gs:// or abfs://.",
        ),
    ],
    style: Annotated[
        Literal["coco", "lvis", "lvis-fixed"],
        typer.Option(rich_help_panel=TRUTH, help='What counts; docs/evaluation.md. lvis-fixed: papers\' "fixed AP".'),
    ] = "coco",
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", rich_help_panel=TRUTH, help="The first N images of the file.")
    ] = None,
    mode: Annotated[
        Literal["raw", "served"],
        typer.Option(
            rich_help_panel=options.KEPT,
            help="raw: as in published evaluations, the best 300 pairs of a box and a class, no thresholds, no NMS; "
            "served: what users get.",
        ),
    ] = "raw",
    box_threshold: options.BoxThreshold = None,
    text_threshold: options.TextThreshold = None,
    nms: Annotated[
        Literal["class", "agnostic", "off"] | None,
        typer.Option(rich_help_panel=options.KEPT, help="As for predict: class unless set. Not of raw mode."),
    ] = None,
    nms_threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, metavar=options.SHARE, rich_help_panel=options.KEPT, help="As for predict: 0.7 unless set."
        ),
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", rich_help_panel=options.KEPT, help="Of an image; 300 in raw mode, 100 as served."
        ),
    ] = None,
    multimask: options.Multimask = False,
    boxes_only: Annotated[
        bool, typer.Option("--boxes-only", rich_help_panel=options.KEPT, help="No masks: SAM does not run.")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="PREFIX",
            rich_help_panel=OUT,
            help="Write the detections as COCO's results: PREFIX.bbox.json and PREFIX.segm.json.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", rich_help_panel=OUT, help="Write the figures here too.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel=OUT, help="Replace files that are there; else none is.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", rich_help_panel=OUT, help="No progress, no warnings; errors remain.")
    ] = False,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    anonymous: Anonymous = False,
    storage_timeout: StorageTimeout = 30,
    model: Annotated[
        str | None,
        typer.Option(rich_help_panel=RUNS, help="As for predict. Unset: tiny; of a service, its default."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(rich_help_panel=RUNS, help="Of torch, in this process: cpu unless set; cuda.")
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(rich_help_panel=RUNS, help="Of the models in this process: float32 unless set."),
    ] = None,
    server: Server = None,
    key: Key = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=256, rich_help_panel=RUNS, help="Images under way at a service; 8.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1, rich_help_panel=RUNS, help="Seconds that a service gets for one image, retries included; 60."
        ),
    ] = None,
) -> None:
    """Measure accuracy on annotated images: COCO's or LVIS's AP of boxes and masks.

    Through the same path as every answer: the stages in this process, or a service with --server. An image that cannot
    be read, or has no answer, counts as one in which nothing was found, and is told.
    """
    with readable_errors():
        arguments.check_sides(server, key=key, concurrency=concurrency, timeout=timeout, device=device)
        if server is not None and precision is not None:
            raise UsageError("--precision is of this process; the service has its own")
        thresholds = {"box_threshold": box_threshold, "text_threshold": text_threshold}
        own = {**thresholds, "nms": nms, "nms_threshold": nms_threshold}
        fields = eval_options.query_fields(mode, own, max_detections)
        targets = eval_options.export_targets(export, json_file, overwrite)

        import faster_coco_eval  # noqa: F401  # used at the end only; whether it is there is better known now

        from deployments.cli import eval_images
        from deployments.cli.eval_report import KINDS, Report
        from pipeline import evaluation

        storage = storage_options(endpoint_url, region, anonymous, storage_timeout)
        truth = eval_images.truth_at(annotations, style, storage)
        truth = truth if limit is None else truth.first(limit)
        kinds: list[evaluation.Kind] = ["bbox"] if boxes_only or truth.unmasked else ["bbox", "segm"]
        folder = eval_images.folder_at(images, storage)
        query = options.read(truth.prompt(style), tile=None, **fields, multimask=multimask)
        pictures, reader = eval_images.pictures_of(truth), eval_images.StoredImages(folder, truth)
        masks = "segm" in kinds
        if server is None:
            answers = work.here(
                pictures, query, model or "tiny", device or "cpu", masks=masks, precision=precision or "float32",
                reader=reader,
            )  # fmt: skip
            where = f"in this process on {device or 'cpu'}, {precision or 'float32'}"
        else:
            asked = {**query.fields, "masks": "rle" if masks else "none"} | ({} if model is None else {"model": model})
            answers = work.there(pictures, query, asked, (server, key, timeout or 60.0), concurrency or 8, reader)
            where = f"over HTTP at {server}"
        gathering = eval_images.Gathering(truth, style, [(kind, targets[kind]) for kind in kinds if kind in targets])
        failed = work.carry_out(
            eval_images.of_the_right_size(answers, truth), [gathering], len(pictures), single=False, bar=not quiet,
            quiet=quiet,
        )  # fmt: skip
        if gathering.model is None:
            raise FailedError("no image has an answer, so there is nothing to measure")
        report = Report(
            truth,
            style,
            gathering.model,
            where,
            eval_options.in_words(mode, query.fields),
            {"mode": mode, "style": style, **query.fields},
            gathering.failed,
            gathering.found.of_each_category(),
            {kind: evaluation.evaluate(truth, gathering.found, kind, style) for kind in KINDS if kind in kinds},
        )
        report.show()
        if json_file is not None:
            with replacing(json_file) as file:
                file.write(json.dumps(report.to_json(), indent=1).encode() + b"\n")
        if failed:
            raise typer.Exit(FAILED)
