"""`text2mask predict`: words and pictures in, answers out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from deployments.cli import arguments, work
from deployments.cli import query as options
from deployments.cli.complaints import FAILED, UsageError, readable_errors
from deployments.cli.inputs import find_pictures
from deployments.cli.outputs import Form, Place
from deployments.cli.service import PANEL as RUNS
from deployments.cli.service import Key, Server
from pipeline.formats.masks import AnswerForm

IN, OUT = "Which pictures", "Answers"

EPILOG = """
[bold]Examples[/bold]

text2mask predict photo.jpg "car, wheel" --model swint+vit_b --overlay seen.png

text2mask predict photos "car, wheel" --recursive --out labels --format coco --format overlay

text2mask predict 'photos/**/*.jpg' --prompt-file classes.txt > answers.jsonl

curl -sL https://images.example/photo.jpg | text2mask predict - "car, wheel"

TEXT2MASK_KEY=$(cat key) text2mask predict photos "car" --server https://masks.example --out labels

[bold]Exit codes[/bold]

0 every picture has an answer, also where nothing was found; 1 a picture has none, or the service cannot be reached;
2 the command is wrong, and nothing was done; 130 Ctrl-C, what was done is kept.
"""


def predict(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            show_default=False,
            help="JPEG, PNG or WebP: files, folders, quoted patterns such as 'photos/**/*.jpg', or - for one picture "
            "on standard input.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(show_default=False, help='What to look for, separated by commas: "red circle, star".'),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", rich_help_panel=IN, help="The folders in a folder, too.")
    ] = False,
    from_list: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=IN,
            help="More pictures, one path a line; - for standard input. For lists too long for a command.",
        ),
    ] = None,
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
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            rich_help_panel=OUT,
            help="Write files here. Without it, answers go to standard output: JSON for one picture, else JSON Lines.",
        ),
    ] = None,
    form: Annotated[
        list[Form] | None,
        typer.Option(
            "--format",
            rich_help_panel=OUT,
            help="May be repeated. json: a file for each picture; jsonl: one file, a line for each; coco: one dataset "
            "to train or correct with; overlay: each picture with its masks; masks: a PNG for each instance.",
        ),
    ] = None,
    masks: Annotated[
        AnswerForm,
        typer.Option(
            rich_help_panel=OUT,
            help="Their form in JSON: rle is short, polygon and png need no decoder. none: boxes alone, and SAM does "
            "not run.",
        ),
    ] = "rle",
    overlay: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=OUT, help="Also write the one picture with its masks here."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel=OUT, help="Replace files that are there; else none is.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", rich_help_panel=OUT, help="No progress, no warnings; errors remain.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=RUNS,
            help="`tiny` comes along and knows drawings; real photographs want detector+segmenter, such as "
            "swint+vit_b. Unset: tiny; of a service, its default.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(rich_help_panel=RUNS, help="Of torch, in this process: cpu unless set; cuda.")
    ] = None,
    server: Server = None,
    key: Key = None,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, max=256, rich_help_panel=RUNS, help="Pictures under way at a service at a time; 8."),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.1, rich_help_panel=RUNS, help="Seconds that a service gets for one picture, retries included; 60."
        ),
    ] = None,
) -> None:
    """Find and mask what a text names, in one picture or many.

    In this process unless --server names a service; both give the same answers. Standard output has answers only.
    """
    with readable_errors():
        words = [*(images or []), *([] if prompt is None else [prompt])]
        named, wanted = arguments.split(words, prompt_file, listed=from_list is not None)
        query = options.read(
            wanted,
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
        arguments.check_sides(server, key=key, concurrency=concurrency, timeout=timeout, device=device)
        pictures = find_pictures(named, arguments.listed(from_list, named), recursive=recursive, apart=out)
        single = len(named) == len(pictures) == 1 and pictures[0].shown == named[0]
        place = Place(out, arguments.forms(form, out, single=single, masks=masks), overlay, overwrite)
        if overlay is not None and not single:
            raise UsageError("--overlay is for one picture; for many there is --out DIR --format overlay")
        place.check(pictures)

        from deployments.cli.writers import picture_format, writers

        if overlay is not None:
            picture_format(overlay)
        sinks = writers(place, masks, query.labels)
        if server is None:
            answers = work.here(pictures, query, model or "tiny", device or "cpu", masks=masks != "none")
        else:
            fields = {**query.fields, "masks": "none" if masks == "none" else "rle"}
            fields |= {} if model is None else {"model": model}
            answers = work.there(pictures, query, fields, (server, key, timeout or 60.0), concurrency or 8)
        to_screen = out is None and sys.stdout.isatty()  # where a moving bar would tear the answers
        if work.carry_out(
            answers, sinks, len(pictures), single=single, bar=not (single or quiet or to_screen), quiet=quiet
        ):
            raise typer.Exit(FAILED)
