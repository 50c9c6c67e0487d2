"""`run_batch`: every image of an input into an output, however often it is interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from deployments.jobs.errors import JobError
from deployments.jobs.inputs import InputError, find_work, missing
from deployments.jobs.output import Output, OutputError
from deployments.jobs.plan import Plan, Pool, Pools
from deployments.jobs.storage import StorageError, StorageOptions, place
from deployments.jobs.tally import Progress, Tally
from deployments.settings import Settings, resolve
from pipeline.prompt import Prompt, parse_classes

_GPU_SHARES = {"detector": 0.5, "image_encoder": 0.4, "mask_decoder": 0.1}

OnProgress = Callable[[Progress], None]


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
    with _named(out):
        target = place(out, options)
        target.check()
    if _within(place(source, options).uri, target.uri):
        raise InputError(f"{source} lies in the output, {out}: take another --out")
    work = find_work(source, prompt, options, limit=limit, apart=target)
    with _named(out):
        opened = Output.open(
            target, plan.described(prompt), overwrite=overwrite, retry_errors=retry_errors, take_over=take_over
        )
    with opened as output:
        left = missing(work, output.done)
        kept = 0 if retry_errors else output.manifest.errors
        tally = Tally(len(work), earlier=len(work) - len(left), failed=kept)
        tell = on_progress or (lambda progress: None)
        tell(tally.progress())
        if len(left):
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported
            from deployments.jobs.connection import connected
            from deployments.jobs.dataset import steps
            from deployments.jobs.passes import Sink, run_passes

            through = steps(plan, pools)
            with connected(ray_address, through):
                run_passes(left, plan, through, Sink(output, tally, tell, commit_every_s))
        try:
            output.close(complete=True)
        except (OutputError, StorageError) as error:
            raise JobError(f"the output cannot be written: {error}") from error
    progress = replace(tally.progress(), failed=output.manifest.errors)
    tell(progress)
    return progress


@contextmanager
def _named(place: str) -> Iterator[None]:
    """What a store refuses is told with the place."""
    try:
        yield
    except StorageError as error:
        raise StorageError(error.code, f"{place}: {error.message}") from None


def _within(uri: str, folder: str) -> bool:
    return uri == folder or uri.startswith(f"{folder.rstrip('/')}/")


def _with_gpus(settings: Settings) -> Settings:
    """Where a stage is on a GPU and no share of one is said: so much that a detector and a segmenter fit on one."""
    stages = {name: getattr(settings, name) for name in _GPU_SHARES}
    changed = {
        name: stage.model_copy(update={"num_gpus": _GPU_SHARES[name]})
        for name, stage in stages.items()
        if stage.device != "cpu" and not stage.num_gpus
    }
    return settings.model_copy(update=changed)
