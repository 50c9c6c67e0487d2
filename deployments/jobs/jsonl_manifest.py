"""Manifests in JSONL: an object a line, images in base64. A line is read by the byte where it begins."""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterator, Sequence
from typing import IO, Any

from deployments.jobs.manifests import NO_PROMPT, InputError, ManifestRow, resolved, row_invalid, row_prompt
from deployments.jobs.storage import Place, StorageError, storage_errors
from deployments.jobs.storage_options import too_large
from pipeline.image import ImageLimits

_PIECE = 2**20  # bytes fetched at a time
_BESIDE_IMAGE = 2**20  # bytes of a line: its path and its prompt
_LONGEST = ImageLimits().max_bytes * 4 // 3 + _BESIDE_IMAGE  # bytes of a line that can hold an image that is taken


def read_rows(manifest: Place) -> Iterator[ManifestRow]:
    """See `manifests.read_rows`. A line that is no JSON is a row that names nothing."""
    folder = manifest.uri.rpartition("/")[0]
    number, any_named = 0, False
    for start, line in _lines(manifest):
        item = None if line is None else _item(line)
        path, held, prompt = _named(item)
        any_named = any_named or path is not None or held is not None or line is None
        yield ManifestRow(
            number,
            None if path is None else resolved(path, folder),
            row_prompt(prompt) if item is not None or line is None else NO_PROMPT,
            held is not None or line is None,
            len(held) // 4 * 3 if isinstance(held, str) else None,
            None,
            start,
        )
        number += 1
    if number and not any_named:
        raise InputError(f'{manifest.uri} has no line like {{"path": "a.jpg"}} or {{"bytes": "base64"}}')


def _named(item: dict[str, Any] | None) -> tuple[str | None, Any, Any]:
    """Path, bytes and prompt of a line."""
    if item is None:
        return None, None, None
    path = item.get("path")
    return path if isinstance(path, str) else None, item.get("bytes"), item.get("prompt")


def _lines(manifest: Place) -> Iterator[tuple[int, bytes | None]]:
    """Where each line that is not blank begins, and the line; None for one too long to hold an image that is taken."""
    with storage_errors(), manifest.open_input() as handle:
        start, parts, length = 0, list[bytes](), 0
        while piece := handle.read(_PIECE):
            *ended, rest = piece.split(b"\n")
            for end in ended:
                whole = b"".join([*parts, end]) if length + len(end) <= _LONGEST else None
                if whole is None or whole.strip():
                    yield start, whole
                start += length + len(end) + 1
                parts, length = [], 0
            length += len(rest)
            parts = [*parts, rest] if length <= _LONGEST else []
        whole = b"".join(parts) if length <= _LONGEST else None
        if whole is None or whole.strip():
            yield start, whole


def _item(line: bytes) -> dict[str, Any] | None:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return item if isinstance(item, dict) else None


class JsonlImages:
    """The images in one file. Not for several threads at a time.

    Args:
        manifest: the file.

    Raises:
        StorageError: it cannot be read.
    """

    def __init__(self, manifest: Place) -> None:
        self._handle = manifest.open_input()

    def read(self, group: int | None, rows: Sequence[int], max_bytes: int) -> Iterator[bytes | StorageError | None]:
        """See `manifests.Images`."""
        for row in rows:
            try:
                with storage_errors():
                    self._handle.seek(row)
                    line = _line(self._handle, max_bytes * 4 // 3 + _BESIDE_IMAGE)
                yield too_large(max_bytes) if line is None else _image(line, max_bytes)
            except StorageError as error:
                yield error

    def close(self) -> None:
        self._handle.close()


def _line(handle: IO[bytes], longest: int) -> bytes | None:
    """The line from here; None if it is longer."""
    parts, length = [], 0
    while piece := handle.read(_PIECE):
        line, ended, _ = piece.partition(b"\n")
        parts.append(line)
        length += len(line)
        if length > longest:
            return None
        if ended:
            break
    return b"".join(parts)


def _image(line: bytes, max_bytes: int) -> bytes | StorageError | None:
    item = _item(line)
    if item is None:
        return row_invalid("the line is no JSON object")
    text = item.get("bytes")
    if text is None:
        return None
    try:
        image = binascii.a2b_base64(text, strict_mode=True)
    except (ValueError, TypeError):
        return row_invalid("bytes must be base64")
    return too_large(max_bytes) if len(image) > max_bytes else image
