"""How far a job is: a display for people, on standard error, or JSON lines for programs, on standard output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING, Literal

import typer
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deployments.cli.complaints import aside, say

if TYPE_CHECKING:
    from deployments.jobs.tally import Progress, StageTimes

EVERY_S = 5.0  # between two lines of JSON

Shown = Literal["auto", "rich", "json", "none"]


@contextmanager
def display(shown: Shown) -> Iterator[Callable[[Progress], None]]:
    """What it gives is to be called with every change."""
    if shown == "auto":
        shown = "rich" if aside.is_terminal else "json"
    if shown == "rich":
        # Standard output is left alone: rich would send what is printed there to its own stream.
        with Live(
            console=aside, refresh_per_second=4, transient=True, redirect_stdout=False, redirect_stderr=False
        ) as live:
            yield lambda progress: live.update(_picture(progress))
    elif shown == "json":
        with _Lines() as lines:
            yield lines.update
    else:
        yield lambda progress: None


class _Lines:
    """What was told last, every few seconds, changed or not; and what was told at the end."""

    def __init__(self) -> None:
        self._last: tuple[Progress, float] | None = None
        self._over = Event()
        self._thread = Thread(target=self._repeat, name="progress", daemon=True)

    def update(self, progress: Progress) -> None:
        self._last = progress, time.monotonic()

    def __enter__(self) -> _Lines:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        if self._last is not None:
            typer.echo(json.dumps(self._last[0].to_json()))

    def _repeat(self) -> None:
        while not self._over.wait(EVERY_S):
            if self._last is not None:
                progress, at = self._last
                elapsed_s = progress.elapsed_s + time.monotonic() - at
                typer.echo(json.dumps(replace(progress, elapsed_s=elapsed_s).to_json()))


def summary(progress: Progress, out: str) -> None:
    """What a job has done, on standard error."""
    rate = progress.done / progress.elapsed_s if progress.elapsed_s else 0.0
    earlier = f", {progress.earlier} were there already" if progress.earlier else ""
    say(
        f"{progress.done} images in {_clock(progress.elapsed_s)} ({rate:.1f}/s), {progress.instances} instances, "
        f"{sum(progress.errors.values())} with an error{earlier}: {out}"
    )
    if progress.failed > sum(progress.errors.values()):
        say(f"{progress.failed} images of the output have an error; --retry-errors does them again")
    if progress.done:
        aside.print(*_tables(progress), sep="\n")


def _picture(progress: Progress) -> Group:
    """The display as of now."""
    done = progress.earlier + progress.done
    line = Table.grid(padding=(0, 1))
    eta = "" if progress.eta_s is None or done >= progress.total else f"{_clock(progress.eta_s)} to go"
    state = (
        "models are loading, or wait for room"
        if not progress.done and done < progress.total
        else f"{progress.rate:.1f}/s"
    )
    line.add_row(
        ProgressBar(total=max(1, progress.total), completed=done, width=40),
        Text(f"{done}/{progress.total} images", style="progress.download"),
        Text(state, style="progress.data.speed"),
        Text(eta, style="progress.remaining"),
    )
    return Group(line, *_tables(progress))


def _tables(progress: Progress) -> list[Table]:
    made = []
    if progress.stages:
        stages = Table("stage", "replicas", "busy", "items", "CPU before", "model", "CPU after", box=None)
        for name, one in progress.stages.items():
            stages.add_row(name, str(one.replicas), f"{one.busy:.0%}", str(one.items), *_steps(one))
        made.append(stages)
    if progress.errors:
        errors = Table("error", "images", box=None)
        for code, count in progress.errors.items():
            errors.add_row(code, str(count), style="red")
        made.append(errors)
    return made


def _steps(stage: StageTimes) -> list[str]:
    """Seconds of each step, over all replicas."""
    return [f"{stage.seconds.get(step, 0.0):.1f} s" for step in ("prepare", "forward", "finish")]


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
