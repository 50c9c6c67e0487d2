"""All of a job's work into its output: a pass in blocks, then one image by image over what killed its workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import pyarrow as pa
import pyarrow.compute as pc

from deployments.jobs import dataset
from deployments.jobs.dataset import Step
from deployments.jobs.errors import JobError
from deployments.jobs.halves import DONE
from deployments.jobs.inputs import missing
from deployments.jobs.output import Output, OutputError
from deployments.jobs.plan import Plan
from deployments.jobs.rows import error_row
from deployments.jobs.storage import StorageError
from deployments.jobs.tally import Progress, Tally

DOWN_IN_A_ROW = 200  # images with one of these errors: then it is not the images
_DOWN = {
    "storage_unavailable": "the storage does not answer",
    "storage_credentials": "the storage refuses the credentials",
    "internal": "the workers fail on every image; their logs say why",
}
_MANY = 64  # images that killed their workers: more than one image can take along
_SAMPLE = 8  # of them are tried before all are


class Sink:
    """Where finished rows go: into the output, and into what is told of it."""

    def __init__(self, output: Output, tally: Tally, tell: Callable[[Progress], None], commit_every_s: float) -> None:
        self.output = output
        self._tally = tally
        self._tell = tell
        self._every_s = commit_every_s
        self._committed = time.monotonic()

    def add(self, rows: pa.Table) -> None:
        """Rows of `DONE`. Raises JobError where they cannot be written."""
        try:
            self.output.add(rows)
            if time.monotonic() - self._committed >= self._every_s:
                self.output.flush()
                self._committed = time.monotonic()
        except (OutputError, StorageError) as error:
            raise JobError(f"the output cannot be written: {error}") from error
        self._tally.add(rows)
        self._tell(self._tally.progress())


def run_passes(left: pa.Table, plan: Plan, through: Sequence[Step], sink: Sink) -> None:
    """Rows for all of `left`. What kills its workers is tried once more, image by image, so that it takes no others
    along; what does so even then gets a row that says it.

    Raises:
        JobError: there is no use in going on.
    """
    _take(dataset.stream(left, plan, through), sink)
    left = missing(left, sink.output.done)
    if len(left) > _MANY:
        sample = left.take(range(0, len(left), -(-len(left) // _SAMPLE)))
        _take(dataset.stream(sample, plan, through, alone=True), sink)
        if len(missing(sample, sink.output.done)) == len(sample):
            raise JobError(
                f"workers died over {len(left)} images, and over each of {len(sample)} that were tried alone"
            )
        left = missing(left, sink.output.done)
    if len(left):
        _take(dataset.stream(left, plan, through, alone=True), sink)
        left = missing(left, sink.output.done)
    lost = [
        error_row(row["id"], row["path"], row["prompt"], "worker_lost", "this image ends the process that reads it", {})
        for row in left.to_pylist()
    ]
    if lost:
        sink.add(pa.Table.from_pylist(lost, DONE))


def _take(blocks: Generator[pa.Table, None, None], sink: Sink) -> None:
    """Every block into the output. Raises JobError where there is no use in going on."""
    down = 0
    with closing(blocks):  # or its threads outlive the connection to Ray, and look for another
        while True:
            try:
                rows = next(blocks, None)
            except Exception as error:  # Ray's, or a worker's own as it started
                reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
                raise JobError(f"the workers did not start, or Ray is gone: {reason[0]}") from error
            if rows is None:
                return
            sink.add(rows)
            for code in pc.struct_field(rows["error"], "code").to_pylist():
                down = down + 1 if code in _DOWN else 0
            if down >= DOWN_IN_A_ROW:
                raise JobError(
                    f"{_DOWN[code]}: {down} images in a row have the error {code}; --retry-errors redoes them"
                )
