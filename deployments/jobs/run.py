"""`run_batch`: every image of an input into an output, however often it is interrupted."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from deployments.jobs.inputs import find_work
from deployments.jobs.output import Output
from deployments.jobs.plan import Plan, Pool, Pools
from deployments.jobs.rows import error_row
from deployments.jobs.storage import StorageOptions, place
from deployments.jobs.tally import Progress, Tally
from deployments.launch import OBJECT_STORE_BYTES
from deployments.settings import Settings, resolve
from pipeline.prompt import Prompt, parse_classes

BLOCK_ROWS = 32  # what a worker takes at a time
UNREADABLE_IN_A_ROW = 200  # then it is not the images
_STORAGE = {"image_forbidden", "storage_unavailable", "storage_credentials", "storage_failed"}

_KEPT = "What was done is kept; the same command goes on from there."
_GPU_SHARES = {"detector": 0.5, "image_encoder": 0.4, "mask_decoder": 0.1}

OnProgress = Callable[[Progress], None]


class JobError(RuntimeError):
    """The job cannot go on. What it has done is kept, and the same call goes on from there."""


def run_batch(
    source: str,
    prompt: Prompt | None,
    out: str,
    *,
    masks: bool = True,
    detector_replicas: str = "1",
    segmenter_replicas: str = "1",
    storage: StorageOptions | None = None,
    settings: Settings | None = None,
    ray_address: str | None = None,
    overwrite: bool = False,
    retry_errors: bool = False,
    take_over: bool = False,
    commit_every_s: float = 30.0,
    limit: int | None = None,
    on_progress: OnProgress | None = None,
    **fields: Any,
) -> Progress:
    """Finds and masks what `prompt` names in every image of `source`, and writes one row for each to `out`.

    Called again with the same arguments, it does what is missing: after a crash, or as images were added.

    Args:
        source: a folder, a pattern, a URI (`s3://`, `gs://`, `abfs://`), or a manifest (`.parquet`, `.jsonl`).
        prompt: as `TextToMask.predict` takes it; None where every row of a manifest has its own.
        out: a folder or URI.
        masks: False: boxes alone; the segmenter is not loaded.
        detector_replicas, segmenter_replicas: `"2"`, or `"least:most"` for a pool that sizes itself.
        storage: endpoint, region and patience; credentials are found the usual ways.
        settings: `model`, and of the stages device, precision, batches, CPUs and GPUs; also limits and URLs. By default
            what the environment says.
        ray_address: of a running Ray; else `RAY_ADDRESS`, else a Ray of this job's own on this machine.
        overwrite: begin anew, whatever is there.
        retry_errors: do the images again that have an error.
        take_over: though another run seems to write there.
        commit_every_s: after which what is done is written, at the latest: what a crash costs.
        limit: at most so many images of the source.
        on_progress: called after every block, and once at the end.
        fields: all other arguments of `TextToMask.predict`.

    Returns:
        What this run did.

    Raises:
        InputError, OutputError, SettingsError, BundleError, StageError, StorageError: nothing was begun; the text says
            what to put right. JobError: what was done is kept.
    """
    options = storage or StorageOptions()
    plan = Plan.make(_with_gpus(settings or resolve()), options, fields, masks=masks)
    if prompt is not None:
        parse_classes(prompt, fields.get("mode", "classes"))
    pools = Pools(Pool.parse(detector_replicas), Pool.parse(segmenter_replicas))
    target = place(out, options)
    target.check()
    work = find_work(source, prompt, options, limit=limit, apart=target)
    with Output.open(
        target, plan.described(prompt), overwrite=overwrite, retry_errors=retry_errors, take_over=take_over
    ) as output:
        left = _missing(work, output.done)
        tally = Tally(len(work), earlier=len(work) - len(left))
        tell = on_progress or (lambda progress: None)
        tell(tally.progress())
        if len(left):
            with connected(ray_address):
                _run(left, plan, pools, _Sink(output, tally, tell, commit_every_s))
        output.close(complete=True)
    tell(tally.progress())
    return tally.progress()


def _with_gpus(settings: Settings) -> Settings:
    """Where a stage is on a GPU and no share of one is said: so much that a detector and a segmenter fit on one."""
    stages = {name: getattr(settings, name) for name in _GPU_SHARES}
    changed = {
        name: stage.model_copy(update={"num_gpus": _GPU_SHARES[name]})
        for name, stage in stages.items()
        if stage.device != "cpu" and not stage.num_gpus
    }
    return settings.model_copy(update=changed)


class _Sink:
    """Where finished rows go: into the output, and into what is told of it."""

    def __init__(self, output: Output, tally: Tally, tell: OnProgress, commit_every_s: float) -> None:
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


def _run(left: pa.Table, plan: Plan, pools: Pools, sink: _Sink) -> None:
    """Rows for all of `left`. What kills its workers is tried once more, image by image, so that it takes no others
    along; what does so even then gets a row that says it."""
    from deployments.jobs.dataset import steps, stream
    from deployments.jobs.halves import DONE

    for block_rows in (BLOCK_ROWS, 1):
        _take(stream(left, plan, steps(plan, pools), block_rows=block_rows), sink)
        before, left = len(left), _missing(left, sink.output.done)
        if not len(left):
            return
        if len(left) > max(4 * BLOCK_ROWS, before // 4):
            raise JobError(f"workers died over {len(left)} of {before} images: it is not the images. {_KEPT}")
    lost = [
        error_row(row["id"], row["path"], row["prompt"], "worker_lost", "this image ends the process that reads it", {})
        for row in left.to_pylist()
    ]
    sink.add(pa.Table.from_pylist(lost, DONE))


def _take(blocks: Iterator[pa.Table], sink: _Sink) -> None:
    """Every block into the output. Raises JobError where there is no use in going on."""
    from deployments.jobs.dataset import quiet

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
            sink.add(rows)
            in_a_row = _unreadable(rows, in_a_row)
            if in_a_row >= UNREADABLE_IN_A_ROW:
                raise JobError(
                    f"the last {in_a_row} images could not be read: {_last_message(rows)}. When the storage answers "
                    f"again, add --retry-errors. {_KEPT}"
                )


def _missing(work: pa.Table, done: set[str]) -> pa.Table:
    """The rows of `work` that are not done."""
    if not done:
        return work
    return work.filter(pc.invert(pc.is_in(work["id"], pa.array(done, pa.string()))))


def _unreadable(rows: pa.Table, before: int) -> int:
    """How many rows in a row the storage did not give, those of earlier blocks included."""
    for code in pc.struct_field(rows["error"], "code").to_pylist():
        before = before + 1 if code in _STORAGE else 0
    return before


def _last_message(rows: pa.Table) -> str:
    message: str = rows["error"][-1].as_py()["message"]
    return message


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A Ray to work on: the one that this process is connected to, or that of the address, or one of its own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own: dict[str, Any] = (
        {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address == "local" else {}
    )
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    try:
        yield
    finally:
        ray.shutdown()
