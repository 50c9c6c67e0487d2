"""`text2mask export`: what other programs take, made of a job's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.progress import Progress

from deployments.cli.complaints import FailedError, aside, readable_errors, say
from deployments.cli.storage import Anonymous, EndpointUrl, Region, StorageTimeout, storage_options

if TYPE_CHECKING:
    from deployments.jobs.export import Exported

OUT = "What is made"

EPILOG = """
[bold]Examples[/bold]

text2mask export labels dataset --format coco

text2mask export s3://bucket/labels s3://bucket/pictures --format masks --format overlay

[bold]Exit codes[/bold]

0 all is there; 1 something could not be read or written, or an image has no overlay since it could not be read again;
2 the command is wrong; 130 Ctrl-C.
"""


class ExportForm(StrEnum):
    """What `--format` takes."""

    COCO = "coco"
    JSONL = "jsonl"
    MASKS = "masks"
    OVERLAY = "overlay"


def export(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Of text2mask batch: a folder or URI.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Where the files go: a folder or URI.")],
    form: Annotated[
        list[ExportForm],
        typer.Option(
            "--format",
            rich_help_panel=OUT,
            help="May be repeated. coco: one dataset, instances.json; jsonl: one file, answers.jsonl, a line for each "
            "row; masks: a PNG for each instance; overlay: each picture with its masks, for which the images are read "
            "again.",
        ),
    ],
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", rich_help_panel=OUT, help="Where TARGET has files: replace those of the same names."
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", rich_help_panel=OUT, help="No progress and no summary; errors remain.")
    ] = False,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    anonymous: Anonymous = False,
    storage_timeout: StorageTimeout = 30,
) -> None:
    """Make COCO, mask PNGs, overlays or JSON Lines of a job's output, while it runs or after.

    Rows with an error are left out, and counted. Names are those of `text2mask predict --out`.
    """
    with readable_errors():
        from deployments.jobs.export import Form, export_results

        forms = [one for one in get_args(Form) if one in form]
        options = storage_options(endpoint_url, region, anonymous, storage_timeout)
        with _bar(shown=aside.is_terminal and not quiet) as tell:
            done = export_results(output, target, forms, options=options, overwrite=overwrite, on_progress=tell)
        if not quiet:
            say(_summary(done, target))
        if done.not_drawn:
            why = ", ".join(f"{code} {count}" for code, count in done.not_drawn.most_common())
            raise FailedError(f"{done.not_drawn.total()} overlays are missing, their images cannot be read: {why}")


@contextmanager
def _bar(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    if not shown:
        yield lambda done, total: None
        return
    # Standard output is left alone: rich would send what is printed there to the bar's own stream.
    with Progress(console=aside, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("rows", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _summary(done: Exported, target: str) -> str:
    made = [f"{count} {name}" for count, name in ((done.masks, "masks"), (done.overlays, "overlays")) if count]
    left_out = f"; {done.errors} rows with an error are left out" if done.errors else ""
    below = f", names are below {done.root}" if done.images else ""
    return f"{', '.join([f'{done.images} images', f'{done.instances} instances', *made])} in {target}{below}{left_out}"
