"""The work of a job: every image that its source names, as an Arrow table in a fixed order, with an id for each.

A source is a folder or a bucket's prefix, all the way down; a pattern; one picture; a manifest, or a folder or pattern
of manifests. Names follow `deployments.picture_files`. A folder that holds pictures is one of pictures.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from deployments.jobs.manifests import (
    NO_PROMPT,
    InputError,
    canonical,
    is_manifest,
    read_rows,
)
from deployments.jobs.storage import Entry, Place, StorageError, StorageOptions, place
from deployments.picture_files import (
    KINDS,
    UnreadableFolderError,
    is_matched,
    is_pattern,
    is_picture,
    is_visible,
    matches,
    of_the_tree,
    split_pattern,
    walk,
)
from pipeline.prompt import Prompt

__all__ = ["WORK", "InputError", "find_work", "missing", "row_id"]

WORK = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("prompt", pa.string()),
        ("size", pa.int64()),
        ("container", pa.string()),
        ("group", pa.int32()),
        ("row", pa.int64()),
    ]
)
_CHUNK = 8_192  # rows that are Python objects at a time


class _File(NamedTuple):
    """A local file; nobody asks for its size before it is opened."""

    uri: str
    size: None = None


class _Item(NamedTuple):
    """A row of the work, without its id."""

    path: str
    prompt: str
    size: int | None = None
    container: str | None = None
    group: int | None = None
    row: int | None = None


def find_work(
    source: str,
    prompt: Prompt | None,
    options: StorageOptions,
    *,
    limit: int | None = None,
    apart: Place | None = None,
) -> pa.Table:
    """All images that a source names.

    Args:
        source: a path, a URI or a pattern.
        prompt: of the images that name none of their own.
        options: how stores are reached.
        limit: at most so many, the first ones.
        apart: a folder of outputs, in which folders and patterns find nothing.

    Returns:
        WORK, of one row at least. `prompt` is JSON. `container`, `group` and `row` say where in which manifest the
        image lies, or the row that names nothing; they are null where `path` itself is the image.

    Raises:
        InputError: what a person can put right: nothing there, no prompt, no manifest, a store that refuses.
    """
    own = NO_PROMPT if prompt is None else canonical(prompt)
    try:
        items = _items(source, place(source, options), apart, own)
        table = _table(islice(items, limit))
    except (StorageError, UnreadableFolderError) as error:
        raise InputError(f"{source}: {error}") from None
    if not len(table):
        raise InputError(f"{source} names no image: no {KINDS} is there, and no manifest with a row")
    if own == NO_PROMPT and pc.all(pc.equal(table["prompt"], NO_PROMPT)).as_py():
        raise InputError("what is to be found? Give a prompt, or a manifest with a column prompt")
    return table


def missing(work: pa.Table, done: set[str]) -> pa.Table:
    """The rows of `work` that are not done."""
    if not done:
        return work
    return work.filter(pc.invert(pc.is_in(work["id"], pa.array(done, pa.string()))))


def row_id(path: str, prompt_json: str, occurrence: int) -> str:
    """32 hexadecimal digits. `occurrence` counts the rows of one path and prompt, from 0."""
    return hashlib.sha256(f"{occurrence}\n{prompt_json}\n{path}".encode()).hexdigest()[:32]


def _items(source: str, here: Place, apart: Place | None, own: str) -> Iterator[_Item]:
    here.check()
    kind = here.kind()
    if kind == "folder":
        found = _in_folder(here, apart)
    elif kind is None and is_pattern(here.uri):
        found = _matching(source, here, apart)
    elif kind is None:
        raise InputError(f"there is no file, object or folder {source!r}")
    elif is_manifest(here.uri):
        return _of_manifest(here, own)
    else:
        return iter([_Item(here.uri, own)])
    return _of_names(found, here.options, own)


def _of_names(found: Iterable[Entry | _File], options: StorageOptions, own: str) -> Iterator[_Item]:
    """The pictures; where there is none, the rows of the manifests."""
    manifests, any_picture = [], False
    for entry in found:
        if is_picture(entry.uri):
            any_picture = True
            yield _Item(entry.uri, own, entry.size)
        elif is_manifest(entry.uri):
            manifests.append(entry.uri)
    for uri in [] if any_picture else manifests:
        yield from _of_manifest(Place(uri, options), own)


def _in_folder(folder: Place, apart: Place | None) -> Iterator[Entry | _File]:
    if folder.is_local:
        inside = None if apart is None or not apart.is_local else Path(apart.uri).resolve()
        paths = walk(
            folder.uri, recursive=True, apart=inside, wanted=lambda name: is_picture(name) or is_manifest(name)
        )
        return (_File(path) for path in paths if of_the_tree(path, folder.uri))
    return (entry for entry, names in _below(folder, apart) if is_visible(names))


def _matching(source: str, here: Place, apart: Place | None) -> Iterator[Entry | _File]:
    if here.is_local:
        inside = None if apart is None or not apart.is_local else Path(apart.uri).resolve()
        root, parts = split_pattern(here.uri if source.startswith("file:") else source)
        found = matches(root, parts, inside)
        paths = dict.fromkeys(found) if parts.count("**") > 1 else found  # two of them match a file twice
        return (_File(place(path).uri) for path in paths)
    start, _, key = here.uri.partition("://")
    root, parts = split_pattern(key)
    return (
        entry for entry, names in _below(Place(f"{start}://{root}", here.options), apart) if is_matched(names, parts)
    )


def _below(folder: Place, apart: Place | None) -> Iterator[tuple[Entry, list[str]]]:
    """The objects below a prefix, each with the parts of its key from there."""
    outside = f"{apart.uri}/" if apart is not None else None
    start = len(folder.uri) + 1
    for entry in folder.files():
        if outside is None or not entry.uri.startswith(outside):
            yield entry, entry.uri[start:].split("/")


def _of_manifest(manifest: Place, own: str) -> Iterator[_Item]:
    for row in read_rows(manifest):
        prompt = own if row.prompt is None else row.prompt
        shown = row.path or f"{manifest.uri}#{row.number}"
        if row.path is not None and not row.holds_image and prompt != NO_PROMPT:
            yield _Item(shown, prompt)
        else:  # the image lies in the row, or the row is to be told as one that names nothing
            yield _Item(shown, prompt, row.size, manifest.uri, row.group, row.row)


def _table(items: Iterator[_Item]) -> pa.Table:
    """WORK, by and by: only a chunk of it is Python objects at a time."""
    chunks: list[pa.RecordBatch] = []
    ids: list[npt.NDArray[np.bytes_]] = []
    columns = pa.schema(list(WORK)[1:])
    while chunk := list(islice(items, _CHUNK)):
        chunk = [item._replace(path=_utf8(item.path)) for item in chunk]
        ids.append(np.array([row_id(item.path, item.prompt, 0) for item in chunk], dtype="S32"))
        arrays = [pa.array(values, field.type) for values, field in zip(zip(*chunk, strict=True), columns, strict=True)]
        chunks.append(pa.RecordBatch.from_arrays(arrays, schema=columns))
    table = pa.Table.from_batches(chunks, schema=columns)
    found = _unique(np.concatenate(ids), table) if ids else np.empty(0, dtype="S32")
    return table.add_column(0, WORK.field("id"), pa.array(found, pa.binary()).cast(pa.string()))


def _unique(ids: npt.NDArray[np.bytes_], table: pa.Table) -> npt.NDArray[np.bytes_]:
    """The ids, with the second and further rows of one path and prompt counted."""
    values, counts = np.unique(ids, return_counts=True)
    repeated = values[counts > 1]
    seen: Counter[bytes] = Counter()
    for index in np.flatnonzero(np.isin(ids, repeated)) if len(repeated) else ():
        first = bytes(ids[index])
        if seen[first]:
            path, prompt = (table[name][index].as_py() for name in ("path", "prompt"))
            ids[index] = row_id(path, prompt, seen[first]).encode()
        seen[first] += 1
    return ids


def _utf8(path: str) -> str:
    """A name that is no UTF-8 is shown with `\\udcff` in it, and will not be found under that: a row with an error."""
    return path.encode(errors="backslashreplace").decode()
