"""Files and objects by URI: `photos/a.jpg`, `s3://bucket/key`, `gs://bucket/key`, `abfs://container@account…/path`.

A URI here is a scheme, a bucket and the raw key: a space, `%`, `#` or `?` is part of the name, and nothing is decoded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from deployments.jobs.local_store import LocalStore
from deployments.jobs.object_store import ObjectStore
from deployments.jobs.storage_options import StorageError, StorageOptions
from deployments.jobs.store_errors import storage_errors

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Entry", "Place", "StorageError", "StorageOptions", "place", "storage_errors"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_STORES = {"s3": "s3", "gs": "gs", "abfs": "abfs", "abfss": "abfs"}
_DEFAULTS = StorageOptions()


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a folder.

    Attributes:
        uri: its place.
        size: in bytes.
    """

    uri: str
    size: int


@dataclass(frozen=True, slots=True)
class Place:
    """A file, object or folder, there or not. Picklable: each process connects for itself, once.

    Every method raises StorageError.

    Attributes:
        uri: an absolute path of this machine, or scheme, bucket and raw key; no slash at its end.
        options: how the store is reached.
    """

    uri: str
    options: StorageOptions = _DEFAULTS

    def child(self, name: str) -> Place:
        """What lies in this folder as `name`, which may have slashes in it."""
        return Place(f"{self.uri.rstrip('/')}/{name}", self.options)

    @property
    def is_local(self) -> bool:
        return _SCHEME.fullmatch(self.uri) is None

    def read(self, max_bytes: int | None = None) -> bytes:
        """The whole contents. With more than `max_bytes`: `image_too_large`, before they are fetched."""
        store, name = self._found()
        return store.read(name, max_bytes)

    def write(self, data: bytes) -> None:
        """Whole or not at all: readers see the old contents or the new ones. Folders come to be by themselves."""
        store, name = self._found()
        store.write(name, data)

    def open_input(self) -> pyarrow.NativeFile:
        """The contents to be read here and there. Reading them is to happen within `storage_errors()`."""
        store, name = self._found()
        return store.open_input(name)

    def files(self) -> Iterator[Entry]:
        """All files below this folder, sorted by path; none if there is no such folder.

        All are listed before the first comes: for that while a bucket of a million objects takes some 700 MB.
        """
        store, name = self._found()
        before = self.uri[: len(self.uri) - len(name)] if name else f"{self.uri}/"
        for found, size in store.files(name):
            yield Entry(before + found, size)

    def delete(self) -> None:
        """No error if it is absent."""
        store, name = self._found()
        store.delete(name)

    def kind(self) -> Literal["file", "folder"] | None:
        """What is there. An object store has no folders: one is there if any key lies below it."""
        store, name = self._found()
        if not name:
            return "folder"
        return store.kind(name)

    def exists(self) -> bool:
        """Whether it is a file or object."""
        return self.kind() == "file"

    def check(self) -> None:
        """First contact, cheap and quick: wrong credentials, no such bucket or nobody there is told within seconds."""
        store, name = self._found()
        store.check(name)

    def _found(self) -> tuple[LocalStore | ObjectStore, str]:
        match = _SCHEME.fullmatch(self.uri)
        if match is None:
            return LocalStore(), self.uri
        bucket, _, key = match[2].partition("/")
        return ObjectStore(_STORES[match[1]], bucket, self.options), key


def place(uri: str | os.PathLike[str], options: StorageOptions = _DEFAULTS) -> Place:
    """The place that a person names.

    Raises:
        StorageError: `storage_not_understood`, for an unknown scheme, no bucket or nothing.
    """
    text = os.fspath(uri)
    match = _SCHEME.fullmatch(text)
    if not text:
        raise StorageError("storage_not_understood", "which folder, file or bucket?")
    if match is None:
        return Place(_absolute(text), options)
    scheme, rest = match[1].lower(), match[2]
    if scheme == "file":
        return Place(_absolute("/" + rest.lstrip("/")), options)
    if scheme not in _STORES:
        raise StorageError("storage_not_understood", "give a path, file://, s3://, gs:// or abfs://")
    bucket, slash, key = rest.partition("/")
    if not bucket:
        raise StorageError("storage_not_understood", f"which bucket? {scheme}://BUCKET/key")
    if key.endswith("/") and not key.endswith("//"):
        key = key[:-1]  # as people write folders
    return Place(f"{scheme}://{bucket}{slash if key else ''}{key}", options)


def _absolute(path: str) -> str:
    """Without `.` and `..`. Above a link to a folder lies what is above the folder that it leads to."""
    if ".." in path.split("/"):
        folder, name = os.path.split(path)
        return os.path.join(os.path.realpath(folder), name) if name not in (".", "..") else os.path.realpath(path)
    return os.path.abspath(path)
