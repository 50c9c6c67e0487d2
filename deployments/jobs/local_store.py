"""Files of this machine, or of a file system that all machines mount. With Python's own calls: they take any name."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

from deployments.jobs.storage_options import FAILED, FORBIDDEN, NOT_FOUND, StorageError, too_large

if TYPE_CHECKING:
    import pyarrow

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)


class LocalStore:
    """The paths are absolute."""

    def read(self, path: str, max_bytes: int | None) -> bytes:
        with local_errors():
            _check_regular(path)
            with open(path, "rb") as file:
                if max_bytes is None:
                    return file.read()
                if os.fstat(file.fileno()).st_size > max_bytes:
                    raise too_large(max_bytes)
                data = file.read(max_bytes + 1)  # it may have grown
                if len(data) > max_bytes:
                    raise too_large(max_bytes)
                return data

    def open_input(self, path: str) -> pyarrow.NativeFile:
        import pyarrow

        with local_errors():
            _check_regular(path)
            return pyarrow.OSFile(path, "rb")

    def write(self, path: str, data: bytes) -> None:
        """Under another name first, which only whole contents ever leave."""
        folder, name = os.path.split(path)
        unfinished = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(4)}")
        with local_errors():
            os.makedirs(folder, exist_ok=True)
            try:
                with open(unfinished, "xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(unfinished, path)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.remove(unfinished)
                raise
            _sync(folder)

    def files(self, path: str) -> Iterator[tuple[str, int]]:
        """Links to folders are not followed, links that lead nowhere left out."""
        found: list[tuple[str, int]] = []
        folders = [path]
        while folders:
            folder = folders.pop()
            with local_errors(), suppress(FileNotFoundError), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file():
                        with suppress(FileNotFoundError):  # gone since it was listed
                            found.append((entry.path, entry.stat().st_size))
        yield from sorted(found)

    def delete(self, path: str) -> None:
        with local_errors(), suppress(FileNotFoundError):
            os.remove(path)

    def kind(self, path: str) -> Literal["file", "folder"] | None:
        if os.path.isdir(path):
            return "folder"
        return "file" if os.path.exists(path) else None

    def check(self, path: str) -> None:
        """Local files need no first contact."""


def _check_regular(path: str) -> None:
    """A pipe would keep its reader for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise StorageError("image_not_found", NOT_FOUND)


def _sync(folder: str) -> None:
    """Makes the new name last beyond a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems do not take this
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def local_errors() -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise StorageError("image_forbidden", FORBIDDEN) from None
    except OSError as error:
        if error.errno in _ABSENT:
            raise StorageError("image_not_found", NOT_FOUND) from None
        raise StorageError("storage_failed", FAILED) from None
    except ValueError:  # a zero byte in the name
        raise StorageError("image_not_found", NOT_FOUND) from None
