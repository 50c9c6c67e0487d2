"""The images of the work as encoded bytes, many at a time. Whatever fails is a row that says so.

Memory: `threads` images under way, each within the limits, and one batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from itertools import groupby

import pyarrow as pa

from deployments.fetch_settings import FetchSettings
from deployments.jobs.image_reader import ImageReader, Loaded, Row
from deployments.jobs.storage_options import StorageOptions
from pipeline.image import ImageLimits

LOADED = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("prompt", pa.string()),
        ("image", pa.binary()),
        ("load_ms", pa.float32()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)
BATCH_BYTES = 16 * 2**20
BATCH_ROWS = 1_024
_CHUNK = 1_024  # rows of the work that are Python objects at a time


def load(
    work: pa.Table,
    options: StorageOptions,
    limits: ImageLimits,
    *,
    threads: int = 8,
    fetch: FetchSettings | None = None,
) -> Iterator[pa.RecordBatch]:
    """The images of some work, in no particular order.

    Args:
        work: rows of `deployments.jobs.inputs.WORK`.
        options: how stores are reached.
        limits: `max_bytes` holds here; an image known to be larger is not fetched.
        threads: images loaded at a time.
        fetch: from which hosts `https://` paths are fetched; none by default.

    Yields:
        LOADED, a row for each of `work`: `image` is null where `code` and `message` say why, and they are null where it
        is not. A batch has 16 MB of images at most, or one larger image.
    """
    reader = ImageReader(options, limits, fetch or FetchSettings())
    batch: list[Loaded] = []
    held = 0
    with closing(reader), ThreadPoolExecutor(threads, thread_name_prefix="load") as pool:
        for loaded in _in_threads(reader, work, pool, threads):
            size = len(loaded.image) if isinstance(loaded.image, bytes) else 0
            if batch and (held + size > BATCH_BYTES or len(batch) == BATCH_ROWS):
                yield _batch(batch)
                batch, held = [], 0
            batch.append(loaded)
            held += size
    if batch:
        yield _batch(batch)


def _in_threads(reader: ImageReader, work: pa.Table, pool: ThreadPoolExecutor, threads: int) -> Iterator[Loaded]:
    running: set[Future[Loaded]] = set()
    for row, found in _rows(reader, work):
        if found is not None:
            yield found
            continue
        running.add(pool.submit(reader.load, row))
        if len(running) >= threads:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    for future in running:
        yield future.result()


def _rows(reader: ImageReader, work: pa.Table) -> Iterator[tuple[Row, Loaded | None]]:
    """Each row, with its image where that lies in a manifest."""
    for chunk in work.to_batches(max_chunksize=_CHUNK):
        for (container, group), rows in groupby(chunk.to_pylist(), key=lambda row: (row["container"], row["group"])):
            if container is None:
                yield from ((row, None) for row in rows)
            else:
                yield from reader.from_manifest(container, group, list(rows))


def _batch(loaded: list[Loaded]) -> pa.RecordBatch:
    faults = [None if isinstance(one.image, bytes) else one.image for one in loaded]
    columns = [
        [one.row["id"] for one in loaded],
        [one.row["path"] for one in loaded],
        [one.row["prompt"] for one in loaded],
        [one.image if isinstance(one.image, bytes) else None for one in loaded],
        [one.seconds * 1_000 for one in loaded],
        [None if fault is None else fault.code for fault in faults],
        [None if fault is None else fault.message for fault in faults],
    ]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, LOADED, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=LOADED)
