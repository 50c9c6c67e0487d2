"""Manifests: lists of images with a prompt each, where wanted, as parquet or JSONL; the images may lie in them.

A row has `path` (a path or URI; a relative one is relative to the manifest's folder) or `bytes` (the encoded image;
base64 in JSONL), or both, and where wanted `prompt`: a text or a list of texts.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.jobs.storage import Place, StorageError, place

NO_PROMPT = '""'  # in the place of a prompt that is none
DAMAGED = StorageError("manifest_unreadable", "this part of the manifest is damaged, or no manifest any more")
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|/")


class InputError(ValueError):
    """A source that a person can put right; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One row.

    Attributes:
        number: from 0, as a data frame counts; blank lines do not.
        path: absolute, or a URI; None where the row has none.
        prompt: canonical JSON; None where the row has none; NO_PROMPT where it has something else in its place.
        holds_image: whether the image may lie in the manifest.
        size: of that image in bytes, at most; None where it is not known.
        group: parquet's row group.
        row: the row in the group; in JSONL where the line begins, in bytes.
    """

    number: int
    path: str | None
    prompt: str | None
    holds_image: bool
    size: int | None
    group: int | None
    row: int


class Images(Protocol):
    """The images that lie in one manifest."""

    def read(self, group: int | None, rows: Sequence[int], max_bytes: int) -> Iterator[bytes | StorageError | None]:
        """For each of the rows, in rising order: its image, or what is wrong with it, or None where it has none."""

    def close(self) -> None: ...


def is_manifest(name: str) -> bool:
    return name.lower().endswith((".parquet", ".jsonl"))


def read_rows(manifest: Place) -> Iterator[ManifestRow]:
    """The rows of a manifest, in order.

    Raises:
        InputError: it is none.
        StorageError: it cannot be read.
    """
    from deployments.jobs import jsonl_manifest, parquet_manifest

    if manifest.uri.lower().endswith(".parquet"):
        return parquet_manifest.read_rows(manifest)
    return jsonl_manifest.read_rows(manifest)


def open_images(manifest: Place) -> Images:
    """Raises StorageError."""
    from deployments.jobs.jsonl_manifest import JsonlImages
    from deployments.jobs.parquet_manifest import ParquetImages

    return ParquetImages(manifest) if manifest.uri.lower().endswith(".parquet") else JsonlImages(manifest)


def row_invalid(reason: str) -> StorageError:
    return StorageError("manifest_row_invalid", reason)


def canonical(prompt: Any) -> str:
    """A prompt as JSON, one text for one prompt."""
    return json.dumps(prompt, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def row_prompt(value: Any) -> str | None:
    """The prompt that a row names: canonical JSON, NO_PROMPT for what is none, None where nothing is said."""
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        return None
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return NO_PROMPT
    prompt = canonical(value)
    return prompt if _is_unicode(prompt) else NO_PROMPT


def resolved(path: str, folder: str) -> str | None:
    """The absolute path or URI that a row names, in a manifest that lies in `folder`; None where it names none."""
    if not path.strip() or not _is_unicode(path):
        return None
    if _REMOTE.match(path) is None:
        path = _joined(folder, path)
    try:
        return place(path).uri
    except StorageError:
        return path  # https:// or something that loading will refuse


def _joined(folder: str, path: str) -> str:
    scheme, sign, rest = folder.rpartition("://")
    if not sign or not any(part in (".", "..") for part in path.split("/")):
        return f"{folder.rstrip('/')}/{path}"
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}{posixpath.normpath(f'/{key}/{path}')}"


def _is_unicode(text: str) -> bool:
    """Whether it has a form in UTF-8: JSON can spell half a letter."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
