"""Exports that are a file or more for each image: mask PNGs, and the picture with its masks."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO

import pyarrow as pa
from PIL import Image

from deployments.answer_files import ENDINGS, is_mask_name, mask_names
from deployments.fetch_settings import FetchSettings
from deployments.jobs.inputs import WORK, InputError
from deployments.jobs.load import load
from deployments.jobs.manifests import read_rows
from deployments.jobs.rows import Row
from deployments.jobs.storage import Place, StorageError, StorageOptions, place
from pipeline.formats.masks import png
from pipeline.image import ImageLimits, decode
from pipeline.result import Result

_IN_MANIFEST = re.compile(r"(.+\.(?:parquet|jsonl))#([0-9]{1,18})", re.IGNORECASE | re.DOTALL)


def write_masks(target: Place, name: str, result: Result, *, overwrite: bool) -> int:
    """A PNG for each instance; returns how many. With `overwrite`, those of an earlier answer go.

    Raises:
        StorageError: they cannot be written.
    """
    if result.rles is None:
        return 0
    folder = target.child(name + ENDINGS["masks"])
    names = mask_names(result.labels)
    if overwrite:
        for entry in folder.files():
            old = entry.uri.removeprefix(f"{folder.uri}/")
            if old not in names and is_mask_name(old):
                folder.child(old).delete()
    for file, rle in zip(names, result.rles, strict=True):
        folder.child(file).write(png(rle))
    return len(names)


def write_overlay(target: Place, name: str, result: Result, image: bytes, limits: ImageLimits) -> None:
    """The picture with its masks, as a PNG.

    Raises:
        StageError: the image cannot be decoded. ValueError: it has another size than it had. StorageError: the picture
            cannot be written.
    """
    buffer = BytesIO()
    Image.fromarray(result.overlay(decode(image, limits))).save(buffer, "PNG")
    target.child(name + ENDINGS["overlay"]).write(buffer.getvalue())


class Images:
    """The images of rows, read again.

    Args:
        options, fetch: how they are reached, as the job did.
        limits: of an image.
    """

    def __init__(self, options: StorageOptions, limits: ImageLimits, fetch: FetchSettings) -> None:
        self._options = options
        self._limits = limits
        self._fetch = fetch
        self._manifests: dict[str, tuple[array[int], array[int]]] = {}  # row group and row, of each row

    def of(self, rows: Sequence[Row]) -> Iterator[tuple[Row, bytes | None, str]]:
        """Each row with its image, or None and why there is none, in no particular order."""
        by_id: Mapping[str, Row] = {row.id: row for row in rows}
        work = sorted(
            map(self._work, rows), key=lambda one: (one["container"] or "", one["group"] or 0, one["row"] or 0)
        )
        table = pa.Table.from_pylist(work, WORK)
        for batch in load(table, self._options, self._limits, fetch=self._fetch):
            for one in batch.select(["id", "image", "code"]).to_pylist():
                yield by_id[one["id"]], one["image"], one["code"] or ""

    def _work(self, row: Row) -> dict[str, object]:
        """The row as it was before: where in a manifest its image lies is told by its path, `MANIFEST#row`."""
        work: dict[str, object] = {"id": row.id, "path": row.path, "prompt": '"any"', "container": None}
        work |= {"group": None, "row": None}
        match = _IN_MANIFEST.fullmatch(row.path)
        if match is None:
            return work
        groups, rows = self._rows(match[1])
        number = int(match[2])
        if number >= len(rows):
            return work
        group = groups[number] if groups[number] >= 0 else None
        return {**work, "container": place(match[1]).uri, "group": group, "row": rows[number]}

    def _rows(self, uri: str) -> tuple[array[int], array[int]]:
        if uri not in self._manifests:
            groups, rows = array("q"), array("q")
            with suppress(StorageError, InputError):  # then each of its rows is one that cannot be read
                for one in read_rows(place(uri, self._options)):
                    groups.append(-1 if one.group is None else one.group)
                    rows.append(one.row)
            self._manifests[uri] = groups, rows
        return self._manifests[uri]
