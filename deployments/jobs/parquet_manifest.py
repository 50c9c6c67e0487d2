"""Manifests in parquet. Only the columns that are asked for are fetched, and of the images a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deployments.jobs.manifests import (
    DAMAGED,
    NO_PROMPT,
    InputError,
    ManifestRow,
    resolved,
    row_invalid,
    row_prompt,
)
from deployments.jobs.storage import Place, StorageError, storage_errors

_ROWS = 8_192  # of paths and prompts in memory at a time
_IMAGES = 16  # of images
_BUFFER = 2**20  # bytes; a column is read through it, never whole
_UNREADABLE = object()


def read_rows(manifest: Place) -> Iterator[ManifestRow]:
    """See `manifests.read_rows`. A row with text that is no UTF-8 is one that names nothing."""
    folder = manifest.uri.rpartition("/")[0]
    try:
        with storage_errors(DAMAGED), manifest.open_input() as handle:
            file = pq.ParquetFile(handle, pre_buffer=False, buffer_size=_BUFFER)
            columns = _columns(manifest, file.schema_arrow)
            holds_image = "bytes" in file.schema_arrow.names
            number = 0
            for group in range(file.metadata.num_row_groups):
                row = 0
                for path, prompt in _values(file, group, columns):
                    found = resolved(path, folder) if isinstance(path, str) else None
                    asked = NO_PROMPT if _UNREADABLE in (path, prompt) else row_prompt(prompt)
                    yield ManifestRow(number, found, asked, holds_image, None, group, row)
                    number, row = number + 1, row + 1
    except StorageError as error:
        if error.code != DAMAGED.code:
            raise
        raise InputError(f"{manifest.uri} cannot be read as parquet: it is none, cut short or damaged") from None


def _columns(manifest: Place, schema: pa.Schema) -> list[str]:
    """Those of `path` and `prompt` that are there, after a look at all types."""
    names = set(schema.names)
    if not names & {"path", "bytes"}:
        there = ", ".join(schema.names[:20]) or "none"
        raise InputError(f"{manifest.uri} has neither a column path nor one bytes; it has: {there}")
    for name in ("path", "bytes", "prompt"):
        if schema.names.count(name) > 1:
            raise InputError(f"{manifest.uri} has more than one column {name}")
    if "path" in names and not _is_text(schema.field("path").type):
        raise InputError(f"the column path of {manifest.uri} must be text")
    if "bytes" in names and not _is_binary(schema.field("bytes").type):
        raise InputError(f"the column bytes of {manifest.uri} must be binary")
    if "prompt" in names and not _is_prompt(schema.field("prompt").type):
        raise InputError(f"the column prompt of {manifest.uri} must be text or lists of texts")
    return [name for name in ("path", "prompt") if name in names]


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(of(kind) for of in kinds)


def _is_binary(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_null)
    return any(of(kind) for of in kinds)


def _is_prompt(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_text(kind.value_type)
    return _is_text(kind)


def _values(file: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[tuple[Any, Any]]:
    """Path and prompt of each row of a group; _UNREADABLE in the place of either that is no UTF-8."""
    if not columns:
        yield from ((None, None) for _ in range(file.metadata.row_group(group).num_rows))
        return
    for batch in file.iter_batches(_ROWS, row_groups=[group], columns=columns, use_threads=False):
        nothing = [None] * batch.num_rows
        paths, prompts = (_read(batch[name]) if name in columns else nothing for name in ("path", "prompt"))
        yield from zip(paths, prompts, strict=True)


def _read(column: pa.Array) -> list[Any]:
    """Parquet's writers need not check that text is UTF-8, and its readers do not."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_read_one(value) for value in column]


def _read_one(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return _UNREADABLE


class ParquetImages:
    """The column `bytes` of one file. Not for several threads at a time.

    Args:
        manifest: the file.

    Raises:
        StorageError: it cannot be read.
    """

    def __init__(self, manifest: Place) -> None:
        self._handle = manifest.open_input()
        with storage_errors(DAMAGED):
            self._file = pq.ParquetFile(self._handle, pre_buffer=False, buffer_size=_BUFFER)

    def read(self, group: int | None, rows: Sequence[int], max_bytes: int) -> Iterator[bytes | StorageError | None]:
        """See `manifests.Images`. The rows before the first that is asked for are read over."""
        if "bytes" not in self._file.schema_arrow.names:
            yield from (None for _ in rows)
            return
        answered = 0
        try:
            with storage_errors(DAMAGED):
                for image in self._images(group or 0, rows, max_bytes):
                    yield image
                    answered += 1
        except StorageError as error:
            yield from (error for _ in rows[answered:])

    def _images(self, group: int, rows: Sequence[int], max_bytes: int) -> Iterator[bytes | StorageError | None]:
        wanted = iter(rows)
        row, start = next(wanted, None), 0
        for batch in self._file.iter_batches(_IMAGES, row_groups=[group], columns=["bytes"], use_threads=False):
            while row is not None and row < start + batch.num_rows:
                value = batch["bytes"][row - start]
                buffer = value.as_buffer() if value.is_valid else None
                if buffer is not None and buffer.size > max_bytes:
                    yield StorageError("image_too_large", f"the image may have at most {max_bytes} bytes")
                else:
                    yield None if buffer is None else buffer.to_pybytes()
                row = next(wanted, None)
            if row is None:
                return
            start += batch.num_rows
        while row is not None:  # the file is another one than it was
            yield row_invalid("the manifest has no such row any more")
            row = next(wanted, None)

    def close(self) -> None:
        self._handle.close()
