"""Work -> finished rows, through Ray Data: load, detect, mask, each in processes of its own and all at the same time.

read tasks -- encoded bytes --> detector pool -- boxes --> segmenter pool -- rows --> the driver
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import (
    ActorPoolStrategy,
    DataContext,
    Dataset,
    Datasource,
    ReadTask,
    TaskPoolStrategy,
    read_datasource,
)
from ray.data.block import BlockMetadata
from ray.util.annotations import RayDeprecationWarning

from deployments.jobs.halves import DetectorWorker, SegmenterWorker
from deployments.jobs.load import load
from deployments.jobs.plan import Plan, Pool, Pools
from deployments.stage_settings import Replicas, resources_of

_LOADERS = 4  # read tasks at a time for each node: they mostly wait, and the process of each takes 150 MB
_LOAD_ROWS = 256  # of one read task at most: a million images are 4,000 tasks
_LOAD_TASKS = 64  # and for fewer images so many, for the nodes to share
BLOCK_ROWS = 16  # what a worker takes at a time,
BLOCK_BYTES = 16 * 2**20  # and fewer of large images
_SUPPOSED_BYTES = 2**20  # of an image whose size no listing tells
_TRIES = 2  # of a block whose worker dies; then its images are tried one by one, as often


class WorkSource(Datasource):
    """Rows of work with their images' encoded bytes.

    Args:
        work: rows of `deployments.jobs.inputs.WORK`.
        block_rows: in one block, which is what a worker takes at a time.

    Attributes:
        tasks: read tasks.
    """

    def __init__(self, work: pa.Table, plan: Plan, block_rows: int) -> None:
        self._plan = plan
        self._block_rows = block_rows
        each = max(block_rows, min(_LOAD_ROWS, -(-len(work) // _LOAD_TASKS)))
        self._slices = [work.slice(start, each).combine_chunks() for start in range(0, len(work), each)]
        self.tasks = len(self._slices)

    def get_name(self) -> str:
        return "Load"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [
            ReadTask(
                partial(_blocks, rows, self._plan, self._block_rows),
                BlockMetadata(num_rows=len(rows), size_bytes=None, input_files=None, exec_stats=None),
                per_task_row_limit=per_task_row_limit,
            )
            for rows in self._slices
        ]


def _blocks(work: pa.Table, plan: Plan, block_rows: int) -> Iterable[pa.Table]:
    """Blocks of at most `block_rows`, as they are loaded."""
    for start in range(0, len(work), block_rows):
        for batch in load(work.slice(start, block_rows), plan.storage, plan.limits, fetch=plan.fetch):
            yield pa.Table.from_batches([batch])


@dataclass(frozen=True, slots=True)
class Step:
    """One pool of workers.

    Attributes:
        worker: made with the plan; called with a block, gives a block of as many rows.
        places: what a worker needs, together.
    """

    worker: type
    pool: Pool
    places: Sequence[Replicas]

    @property
    def num_cpus(self) -> float:
        return round(sum(one.num_cpus for one in self.places), 4)

    @property
    def num_gpus(self) -> float:
        return round(sum(one.num_gpus for one in self.places), 4)


def steps(plan: Plan, pools: Pools) -> list[Step]:
    """The detector, then the segmenter, whose two models share a process: an embedding never leaves it."""
    segmenter = plan.segmenter
    return [
        Step(DetectorWorker, pools.detector, [plan.detector.deployment]),
        Step(SegmenterWorker, pools.segmenter, [segmenter.image_encoder, segmenter.mask_decoder]),
    ]


def stream(
    work: pa.Table, plan: Plan, through: Sequence[Step], *, alone: bool = False
) -> Generator[pa.Table, None, None]:
    """Finished rows, of `deployments.jobs.halves.DONE`, in any order and a block at a time. To be closed.

    A block whose workers die is tried anew; what kills them every time is left out. `alone`: each image is a block, and
    no worker has two at a time.

    Raises:
        Exception: Ray's own, if workers do not start.
    """
    size = _mean_size(work)
    block_rows = 1 if alone else max(1, min(BLOCK_ROWS, BLOCK_BYTES // size))
    source = WorkSource(work, plan, block_rows)
    loaders = min(source.tasks, _LOADERS * sum(node["Alive"] for node in ray.nodes()))
    with _context(target_max_block_size=block_rows * size):
        rows = read_datasource(
            source,
            num_cpus=0,  # none set aside: workers that fill a cluster would wait for ever for what nobody loads
            compute=TaskPoolStrategy(loaders),
            override_num_blocks=source.tasks,  # or Ray splits blocks
        )
        for step in through:
            rows = _through(rows, step, plan, block_rows, alone=alone)
        yield from rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _mean_size(work: pa.Table) -> int:
    """Bytes of an image, as far as they are known."""
    mean = pc.mean(work["size"]).as_py()
    return max(1, int(mean)) if mean is not None else _SUPPOSED_BYTES


def _through(rows: Dataset, step: Step, plan: Plan, block_rows: int, *, alone: bool) -> Dataset:
    return rows.map_batches(
        step.worker,
        fn_constructor_args=(plan,),
        batch_size=block_rows,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(
            min_size=step.pool.least,
            max_size=step.pool.most,
            max_tasks_in_flight_per_actor=1 if alone else 4,
            # The next blocks' images are decoded beside this one's passes.
            max_concurrent_calls_per_actor=1 if alone else 2,
            enable_true_multi_threading=True,
        ),
        num_cpus=step.num_cpus,
        num_gpus=step.num_gpus,
        resources=resources_of(step.places) or None,
        udf_modifying_row_count=False,
        ray_remote_args_fn=_tries,
    )


def _tries() -> dict[str, int]:
    """Ray's own number is none: what kills a worker would kill it for ever."""
    return {"max_task_retries": _TRIES - 1}


@contextmanager
def _context(*, target_max_block_size: int) -> Iterator[None]:
    """Ray Data as a job wants it: without progress bars and lines of its own; a failing block is left out instead of
    ending the job; blocks are no larger than they are to be."""
    context: Any = DataContext.get_current()
    wanted: dict[str, Any] = {
        "enable_progress_bars": False,
        "enable_operator_progress_bars": False,
        "print_on_execution_start": False,
        "max_errored_blocks": -1,
        "target_max_block_size": target_max_block_size,
    }
    before = {name: getattr(context, name) for name in wanted}
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # its tracebacks of lost blocks: they are tried again, and told in the end
    try:
        with warnings.catch_warnings():
            # Of `ray_remote_args_fn`; there is no other way yet to say how often a task of a pool is tried.
            warnings.filterwarnings("ignore", category=RayDeprecationWarning)
            # Said where fewer blocks come than there could be tasks: of a small job, or after a block was lost.
            warnings.filterwarnings("ignore", message="The m(in|ax)imum number of concurrent")
            for name, value in wanted.items():
                setattr(context, name, value)
            yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)
