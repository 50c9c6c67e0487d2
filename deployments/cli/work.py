"""The work of a command on its pictures: models or a service answer, writers write, a person sees how far it is."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import typer

from deployments.cli.answers import Answer, Reader, from_service, in_process
from deployments.cli.complaints import INTERRUPTED, FailedError, UsageError, complain, say
from deployments.cli.inputs import Picture
from deployments.cli.progress import Tally, progress
from deployments.cli.query import Query
from deployments.cli.service import connected, unknown_model
from deployments.cli.writers import Writer

if TYPE_CHECKING:
    from pipeline.models.precision import Precision
    from pipeline.text_to_mask import TextToMask


def here(
    pictures: list[Picture],
    query: Query,
    model: str,
    device: str,
    *,
    masks: bool,
    precision: Precision = "float32",
    reader: Reader | None = None,
) -> Generator[Answer, None, None]:
    """Answers of models in this process, loaded when the first is asked for."""
    yield from in_process(pictures, query, load(model, device, precision), masks=masks, reader=reader)


def load(model: str, device: str, precision: Precision = "float32") -> TextToMask:
    """The models. Raises BundleError, and UsageError for a device that is not there."""
    import torch

    from pipeline.allocator import keep_freed_memory
    from pipeline.text_to_mask import TextToMask

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UsageError(f"--device {device!r} is none that torch has here; cpu always is") from None
    keep_freed_memory()
    return TextToMask.from_pretrained(model, device=device, precision=precision)


def there(
    pictures: list[Picture],
    query: Query,
    fields: dict[str, object],
    where: tuple[str, str | None, float],
    many: int,
    reader: Reader | None = None,
) -> Generator[Answer, None, None]:
    """Answers of a service, `many` pictures under way at a time. `where`: its address, a key, seconds for one."""
    server, key, timeout_s = where
    from deployments.client import ClientError

    with connected(server, key, timeout_s) as client:
        if not client.ready():
            say(f"{server} does not say that it is ready; trying for a while", style="yellow")
        try:
            yield from from_service(pictures, query.prompt, fields, client, many, reader)
        except ClientError as error:
            if error.code == "unknown_model":
                raise FailedError(unknown_model(client, str(fields["model"]))) from None
            raise FailedError(f"{server}: {error}") from None


def carry_out(
    answers: Generator[Answer, None, None],
    sinks: Sequence[Writer],
    total: int,
    *,
    single: bool,
    bar: bool,
    quiet: bool,
) -> int:
    """Every answer into every form; the number of pictures without one. What is done when it breaks off is kept.

    Args:
        total: how many answers there will be.
        single: no summary is wanted.
        bar: show how far it is, where standard error is a terminal.
        quiet: nor any warning.
    """
    tally = Tally(total)
    try:
        with ExitStack() as end, progress(tally, shown=bar) as advance:
            for sink in sinks:
                end.callback(sink.finish)  # whatever ends the block
            end.callback(answers.close)  # what is under way at a service is given up
            for answer in answers:
                for sink in sinks:
                    sink.add(answer)
                if not tally.count(answer):
                    complain(f"{answer.picture.shown}: {answer.found}")
                elif not quiet:
                    for warning in tally.new_warnings(answer):
                        say(f"{answer.picture.shown}: {warning}", style="yellow")
                advance()
    except KeyboardInterrupt:
        complain(f"interrupted; {tally.done} of {tally.total} pictures are done")
        raise typer.Exit(INTERRUPTED) from None
    if not (single or quiet):
        say(tally.summary())
    return tally.failed
