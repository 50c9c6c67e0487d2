"""All of a job's work into its output: a pass in blocks, then one image by image over what killed its workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from deployments.jobs import dataset
from deployments.jobs.dataset import Step, quiet
from deployments.jobs.halves import DONE
from deployments.jobs.inputs import missing
from deployments.jobs.output import Output, OutputError
from deployments.jobs.plan import Plan
from deployments.jobs.rows import error_row
from deployments.jobs.tally import Progress, Tally

BLOCK_ROWS = 16  # what a worker takes at a time
UNREADABLE_IN_A_ROW = 200  # then it is not the images
_STORAGE = {"image_forbidden", "storage_unavailable", "storage_credentials", "storage_failed"}
_KEPT = "What was done is kept; the same command goes on from there."


class JobError(RuntimeError):
    """The job cannot go on. What it has done is kept, and the same call goes on from there."""


class Sink:
    """Where finished rows go: into the output, and into what is told of it."""

    def __init__(self, output: Output, tally: Tally, tell: Callable[[Progress], None], commit_every_s: float) -> None:
        self.output = output
        self._tally = tally
        self._tell = tell
        self._every_s = commit_every_s
        self._committed = time.monotonic()

    def add(self, rows: pa.Table) -> None:
        """Rows of `DONE`. Raises as `Output.add`."""
        self.output.add(rows)
        if time.monotonic() - self._committed >= self._every_s:
            self.output.flush()
            self._committed = time.monotonic()
        self._tally.add(rows)
        self._tell(self._tally.progress())


def run_passes(left: pa.Table, plan: Plan, through: Sequence[Step], sink: Sink) -> None:
    """Rows for all of `left`. What kills its workers is tried once more, image by image, so that it takes no others
    along; what does so even then gets a row that says it."""
    for block_rows in (BLOCK_ROWS, 1):
        _take(dataset.stream(left, plan, through, block_rows=block_rows), sink)
        before, left = len(left), missing(left, sink.output.done)
        if not len(left):
            return
        if len(left) > max(4 * BLOCK_ROWS, before // 4):
            raise JobError(f"workers died over {len(left)} of {before} images: it is not the images. {_KEPT}")
    lost = [
        error_row(row["id"], row["path"], row["prompt"], "worker_lost", "this image ends the process that reads it", {})
        for row in left.to_pylist()
    ]
    sink.add(pa.Table.from_pylist(lost, DONE))


def _take(blocks: Iterator[pa.Table], sink: Sink) -> None:
    """Every block into the output. Raises JobError where there is no use in going on."""
    in_a_row = 0
    with quiet():
        while True:
            try:
                rows = next(blocks, None)
            except Exception as error:  # Ray's, or a worker's own as it started
                reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
                raise JobError(f"the workers did not start, or Ray is gone: {reason[0]}. {_KEPT}") from error
            if rows is None:
                return
            try:
                sink.add(rows)
            except OutputError as error:
                raise JobError(str(error)) from error
            in_a_row = _unreadable(rows, in_a_row)
            if in_a_row >= UNREADABLE_IN_A_ROW:
                raise JobError(
                    f"the last {in_a_row} images could not be read: {_last_message(rows)}. When the storage answers "
                    f"again, add --retry-errors. {_KEPT}"
                )


def _unreadable(rows: pa.Table, before: int) -> int:
    """How many rows in a row the storage did not give, those of earlier blocks included."""
    for code in pc.struct_field(rows["error"], "code").to_pylist():
        before = before + 1 if code in _STORAGE else 0
    return before


def _last_message(rows: pa.Table) -> str:
    message: str = rows["error"][-1].as_py()["message"]
    return message
