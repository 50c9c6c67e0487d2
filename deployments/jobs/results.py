"""The reading side of an output, for anybody at any moment: also while a job writes it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from deployments.jobs.manifest import Manifest, OutputError, read_manifest
from deployments.jobs.parts import read_part
from deployments.jobs.rows import Row, read_row
from deployments.jobs.storage import Place, StorageOptions, place

_DEFAULT = StorageOptions()


def read_results(output: str | os.PathLike[str], options: StorageOptions = _DEFAULT) -> Iterator[Row]:
    """Every image that was done when this was called, once, in no order to be relied on.

    Some hundred rows are in memory at a time. What a job replaces meanwhile stays readable for an hour.

    Raises:
        OutputError: there is no output; or, while rows are read, a file that was replaced an hour ago is gone.
        StorageError: it cannot be read.
    """
    where = place(output, options)
    return rows_of(where, manifest_of(where))


def live_parts(output: str | os.PathLike[str], options: StorageOptions = _DEFAULT) -> list[str]:
    """The parquet files that are the output now, as paths or URIs for any reader. Raises like `read_results`."""
    where = place(output, options)
    return [where.child(part.name).uri for part in manifest_of(where).parts]


def manifest_of(where: Place) -> Manifest:
    """Raises OutputError where there is none."""
    manifest = read_manifest(where)
    if manifest is None:
        raise OutputError(f"{where.uri} is no output of a job: there is no _manifest.json")
    return manifest


def rows_of(where: Place, manifest: Manifest) -> Iterator[Row]:
    """The rows of its parts."""
    for part in manifest.parts:
        for table in read_part(where, part.name):
            for row in table.to_pylist():
                yield read_row(row, manifest.model)
