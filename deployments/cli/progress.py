"""How far a command is: counted always, drawn on standard error where that is a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from deployments.cli.answers import Answer
from deployments.cli.complaints import aside
from pipeline.result import Result


@dataclass(slots=True)
class Tally:
    """What has been done of `total` pictures."""

    total: int
    done: int = 0
    failed: int = 0
    instances: int = 0
    started: float = field(default_factory=time.perf_counter)
    warned: set[str] = field(default_factory=set)

    def count(self, answer: Answer) -> bool:
        """Whether the answer is a result."""
        self.done += 1
        if not isinstance(answer.found, Result):
            self.failed += 1
            return False
        self.instances += len(answer.found)
        return True

    def new_warnings(self, answer: Answer) -> list[str]:
        """The result's warnings that no other picture's had: most are of the prompt."""
        assert isinstance(answer.found, Result)
        new = [warning for warning in answer.found.warnings if warning not in self.warned]
        self.warned.update(new)
        return new

    def summary(self) -> str:
        """A sentence for the end."""
        seconds = time.perf_counter() - self.started
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done} pictures, {self.instances} instances{failed}; {seconds:.1f} s"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-/s", style="progress.data.speed")


@contextmanager
def progress(tally: Tally, *, shown: bool) -> Iterator[Callable[[], None]]:
    """A bar with rate and remaining time; what it gives is to be called after every picture."""
    if not shown or not aside.is_terminal:
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    # Standard output is left alone: rich would send what is printed there to the bar's own stream.
    with Progress(*columns, console=aside, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("loading", total=tally.total)

        def advance() -> None:
            failed = f", {tally.failed} failed" if tally.failed else ""
            bar.update(task, completed=tally.done, description=f"pictures{failed}")

        yield advance
