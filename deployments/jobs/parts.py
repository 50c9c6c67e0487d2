"""The output's parquet files: written whole, read a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deployments.jobs.manifest import OutputError, Part
from deployments.jobs.rows import RESULTS
from deployments.jobs.storage import Place, StorageError, storage_errors

FOLDER = "parts"
ROWS_AT_A_TIME = 200  # of what is read: with many masks a row has tens of kilobytes


def write_part(output: Place, name: str, tables: Iterable[pa.Table]) -> list[Part]:
    """One file of all rows, or none where there are none. In memory are one table at a time and the file's bytes.

    Raises:
        StorageError: it could not be written.
    """
    buffer, rows, errors = BytesIO(), 0, 0
    with pq.ParquetWriter(buffer, RESULTS, compression="zstd") as writer:
        for table in tables:
            if table.num_rows:
                writer.write_table(table)
                rows += table.num_rows
                errors += table.num_rows - table["error"].null_count
    if not rows:
        return []
    data = buffer.getvalue()
    output.child(name).write(data)
    return [Part(name, rows, errors, len(data))]


def read_part(output: Place, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Its rows, at most `ROWS_AT_A_TIME` in a table.

    Raises:
        OutputError: it is not there any more. StorageError: it cannot be read.
    """
    with _opened(output, name) as parquet:
        for batch in parquet.iter_batches(ROWS_AT_A_TIME, columns=columns):
            yield pa.Table.from_batches([batch])


def read_ids(output: Place, name: str) -> list[str]:
    """The ids of its rows. Raises like `read_part`."""
    with _opened(output, name) as parquet:
        ids: list[str] = parquet.read(["id"])["id"].to_pylist()
        return ids


def without(tables: Iterable[pa.Table], ids: Collection[str]) -> Iterator[pa.Table]:
    """The rows that have none of these ids."""
    unwanted = pa.array(sorted(ids), pa.string())
    for table in tables:
        yield table.filter(pc.invert(pc.is_in(table["id"], unwanted)))


def of_rows(tables: Iterable[pa.Table], most: int) -> Iterator[list[pa.Table]]:
    """The tables in groups of about `most` rows."""
    group: list[pa.Table] = []
    rows = 0
    for table in tables:
        group.append(table)
        rows += table.num_rows
        if rows >= most:
            yield group
            group, rows = [], 0
    if group:
        yield group


@contextmanager
def _opened(output: Place, name: str) -> Iterator[pq.ParquetFile]:
    try:
        with output.child(name).open_input() as file, storage_errors():
            try:
                with pq.ParquetFile(file) as parquet:
                    yield parquet
            except pa.ArrowInvalid:
                raise OutputError(f"{output.uri}: {name} is damaged") from None
    except StorageError as error:
        if error.code != "image_not_found":
            raise
        raise OutputError(
            f"{output.uri}: {name} is not there. If the manifest lists it still, it was deleted; else read again"
        ) from None
