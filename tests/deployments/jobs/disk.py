"""Files in memory, whose every operation can be watched, can fail, and can be the last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from deployments.jobs.storage import Entry, Place, StorageError

Fault = Literal["killed", "fails before", "fails after"]


class Killed(BaseException):
    """The process is no more: nothing that it does from now on has an effect."""


@dataclass(slots=True)
class Disk:
    """What is stored, by URI.

    Attributes:
        done: operations so far, reads included.
        fault: of operation number `at`, counted from 1: the process dies before it has an effect, or StorageError is
            raised before it has one or after.
        watch: called after each write and delete.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    done: int = 0
    at: int = 0
    fault: Fault = "killed"
    dead: bool = False
    watch: Callable[[], None] | None = None

    def operate(self, effect: Callable[[], None] = lambda: None) -> None:
        self.done += 1
        if self.dead:
            raise Killed
        now = self.fault if self.done == self.at else None
        if now == "killed":
            self.dead = True
            raise Killed
        if now != "fails before":
            effect()
            if self.watch is not None:
                self.watch()
        if now is not None:
            raise StorageError("storage_unavailable", "not now")


@dataclass(frozen=True, slots=True)
class DiskPlace(Place):
    disk: Disk = field(default_factory=Disk)

    def child(self, name: str) -> Place:
        return DiskPlace(f"{self.uri}/{name}", self.options, self.disk)

    def read(self, max_bytes: int | None = None) -> bytes:
        self.disk.operate()
        if self.uri not in self.disk.files:
            raise StorageError("image_not_found", "no such file")
        return self.disk.files[self.uri]

    def write(self, data: bytes) -> None:
        self.disk.operate(lambda: self.disk.files.__setitem__(self.uri, data))

    def open_input(self) -> pa.NativeFile:
        return pa.BufferReader(self.read())

    def files(self) -> Iterator[Entry]:
        self.disk.operate()
        yield from (Entry(uri, len(data)) for uri, data in sorted(self.disk.files.items()) if uri.startswith(self.uri))

    def delete(self) -> None:
        self.disk.operate(self._drop)

    def _drop(self) -> None:
        self.disk.files.pop(self.uri, None)


def on(disk: Disk) -> Place:
    """The folder `s3://bucket/out` of it."""
    return DiskPlace("s3://bucket/out", disk=disk)
