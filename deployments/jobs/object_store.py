"""Objects in S3, Google Cloud Storage and Azure, through pyarrow's file systems."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from deployments.jobs.clients import connect
from deployments.jobs.storage_options import NOT_ADDRESSABLE, NOT_ALLOWED, StorageError, StorageOptions, too_large
from deployments.jobs.store_errors import LostAnswerError, storage_errors

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import fs

_CHUNK = 8_192  # objects that are Python's at a time
_LONGEST_WAIT_S = 20.0
_FIRST_CONTACT = {"attempts": 2, "timeout_s": 5.0}  # at most: a wrong address is told before anybody walks away


class ObjectStore:
    """Objects of one bucket, or of one container of Azure's.

    Args:
        scheme: `s3`, `gs` or `abfs`.
        bucket: its name; for Azure `container` or `container@account.dfs.core.windows.net`.
        options: how it is reached.
    """

    def __init__(self, scheme: str, bucket: str, options: StorageOptions) -> None:
        self._bucket = bucket.partition("@")[0]
        self._address = (scheme, bucket)
        self._options = options

    def read(self, key: str, max_bytes: int | None) -> bytes:
        attempt = 1
        while True:
            try:
                return self._read(key, max_bytes)
            except LostAnswerError:
                if attempt == self._options.attempts:
                    raise
            time.sleep(random.uniform(0, min(2 ** (attempt - 1), _LONGEST_WAIT_S)))  # as the SDK does
            attempt += 1

    def _read(self, key: str, max_bytes: int | None) -> bytes:
        if self._address[0] == "gs":
            return self._streamed(key, max_bytes)
        with self.open_input(key) as file, storage_errors():
            if max_bytes is not None and file.size() > max_bytes:
                raise too_large(max_bytes)
            return bytes(file.read())

    def _streamed(self, key: str, max_bytes: int | None) -> bytes:
        """In one request. A file of Google's that can be sought in holds Python's lock while it reads."""
        path = self._path(key)
        with storage_errors(), self._filesystem.open_input_stream(path) as stream:
            if max_bytes is None:
                return bytes(stream.read())
            data = bytearray()
            while len(data) <= max_bytes and (piece := stream.read(max_bytes + 1 - len(data))):
                data += piece
            if len(data) > max_bytes:
                raise too_large(max_bytes)
            return bytes(data)

    def open_input(self, key: str) -> pyarrow.NativeFile:
        """Asks for the object's size only; its bytes are fetched as they are read."""
        path = self._path(key)
        with storage_errors():
            return self._filesystem.open_input_file(path)

    def write(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with storage_errors(), self._filesystem.open_output_stream(path) as stream:
            stream.write(data)

    def files(self, key: str) -> Iterator[tuple[str, int]]:
        """Keys below `key` and a slash. A key that ends in a slash is a folder's mark, and none of them."""
        from pyarrow import fs

        folder = f"{self._bucket}/{key}".rstrip("/")
        with storage_errors():
            found = self._filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
        for path, size in _sorted(found):
            if path.startswith(f"{folder}/"):
                yield path[len(self._bucket) + 1 :], size

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            with storage_errors():
                self._filesystem.delete_file(path)
        except StorageError as error:
            if error.code != "image_not_found":
                raise

    def kind(self, key: str) -> Literal["file", "folder"] | None:
        from pyarrow import fs

        path = self._path(key.rstrip("/"))
        with storage_errors():
            found = self._filesystem.get_file_info(path).type
        return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(found)  # type: ignore[return-value]

    def check(self, key: str) -> None:
        """Ask for the bucket; where that is not allowed, for what the store says of a listing, then for the object."""
        from pyarrow import fs

        quick = {name: min(getattr(self._options, name), most) for name, most in _FIRST_CONTACT.items()}
        first = ObjectStore(*self._address, self._options.model_copy(update=quick))
        try:
            with storage_errors():
                found = first._filesystem.get_file_info(self._bucket).type
        except StorageError as error:
            if error.code != "image_forbidden":
                raise
            first._check_denied(key)
            return
        if found == fs.FileType.NotFound:
            raise StorageError("image_not_found", f"there is no bucket {self._bucket!r}")

    def _check_denied(self, key: str) -> None:
        from pyarrow import fs

        try:
            with storage_errors():
                self._filesystem.get_file_info(fs.FileSelector(f"{self._bucket}/{key}".rstrip("/")))
                return
        except StorageError as error:
            if error.code != "image_forbidden":
                raise
        try:
            if key and self.kind(key) == "file":
                return
        except StorageError as error:
            if error.code != "image_forbidden":
                raise
        raise StorageError("storage_credentials", NOT_ALLOWED)

    def _path(self, key: str) -> str:
        """Refuses what the client would take for another key: it shortens `a/../b` to `b`, without a word."""
        if any(part in ("", ".", "..") for part in key.split("/")):
            raise StorageError("storage_not_understood", NOT_ADDRESSABLE)
        return f"{self._bucket}/{key}"

    @property
    def _filesystem(self) -> fs.FileSystem:
        with storage_errors():
            return connect(*self._address, self._options)


def _sorted(found: list[fs.FileInfo]) -> Iterator[tuple[str, int]]:
    """Path and size of the files, by path. Empties the list: an item takes several hundred bytes, a row some sixty."""
    import pyarrow as pa
    from pyarrow import fs

    schema = pa.schema([("path", pa.large_string()), ("size", pa.int64())])
    chunks = []
    while found:
        some = [info for info in found[-_CHUNK:] if info.type == fs.FileType.File]
        del found[-_CHUNK:]
        chunks.append(pa.record_batch([[info.path for info in some], [info.size for info in some]], schema=schema))
    for batch in pa.Table.from_batches(chunks, schema=schema).sort_by("path").to_batches(max_chunksize=_CHUNK):
        yield from zip(batch["path"].to_pylist(), batch["size"].to_pylist(), strict=True)
