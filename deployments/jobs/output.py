"""The writing side of an output: one process, which adds rows and never changes a file that is listed.

A file is written whole, under a name of its own, before the manifest that lists it; the manifest is swapped at once. So
what the manifest lists is the truth whenever the process dies, and what it does not list is nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from threading import Event, RLock, Thread
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from deployments.jobs import lease
from deployments.jobs.manifest import Manifest, OutputError, Part, read_manifest, write_manifest
from deployments.jobs.opening import delete, strays, swapped, sweep, take
from deployments.jobs.parts import FOLDER, read_ids, write_part
from deployments.jobs.redoing import Redoing, gathered
from deployments.jobs.rows import RESULTS
from deployments.jobs.storage import Place, StorageError

__all__ = ["Output", "OutputError"]

MOST_ROWS, MOST_BYTES, MOST_S = 1_000, 64 * 2**20, 30.0  # held before they are written
_READERS = 8  # parts read at a time


class Output:
    """What a job has done, and does. A context manager: what is held is written, and the output let go, at its end.

    Rows without and with an error go to files of their own, so that redoing the latter leaves the others alone. Methods
    may be called from any thread.

    Attributes:
        done: ids that need no work. Of a million rows some 150 MB.
        manifest: as last written.
    """

    def __init__(self, place: Place, manifest: Manifest, clock: Callable[[], float]) -> None:
        assert manifest.run is not None
        self.done: set[str] = set()
        self.manifest = manifest
        self._place = place
        self._clock = clock
        self._run = manifest.run
        self._redoing = Redoing(place)
        self._held: list[pa.Table] = []
        self._since = 0.0  # when the first of those came
        self._pending: pa.Table | None = None  # what a flush that failed was about, which the next begins with
        self._files = 0
        self._lock = RLock()
        self._stop = Event()
        self._thread = Thread(target=self._beat, name="output-heartbeat", daemon=True)

    @classmethod
    def open(
        cls,
        place: Place,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
        retry_errors: bool = False,
        take_over: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Makes this process the one that writes, and reads what is done.

        Args:
            settings: what the rows depend on, flat and as JSON has it: `model`, prompt, thresholds, hashes.
            overwrite: begin anew, with these settings; what was there stays readable for an hour by whoever has the
                list of its parts.
            retry_errors: rows with an error are not done.
            take_over: do not mind a run that seems to be alive.
            clock: Unix seconds.

        Raises:
            OutputError: the output was made with other settings; another run is writing it; it is none of ours.
            StorageError: it cannot be read or written.
        """
        manifest, alone = take(place, settings, overwrite=overwrite, take_over=take_over, now=clock())
        output = cls(place, manifest, clock)
        output._thread.start()
        try:
            output._clean(alone=alone)
            output._read_done(retry_errors)
        except BaseException:
            with suppress(StorageError, OutputError):
                output.close(complete=False)
            raise
        return output

    def add(self, rows: pa.Table) -> None:
        """Takes rows of `RESULTS`; those with an id that is done are dropped. They are held, and written with others.

        Raises:
            OutputError: the output is not this run's any more, or a file of it is missing; nothing was changed.
            StorageError: rows could not be written. They are held still, and tried again with the next flush.
        """
        rows = rows.select(RESULTS.names).cast(RESULTS)
        with self._lock:
            new = []
            for index, id in enumerate(rows["id"].to_pylist()):
                if id not in self.done:
                    self.done.add(id)
                    new.append(index)
            if not new:
                return
            if not self._held:
                self._since = self._clock()
            self._held.append(rows if len(new) == rows.num_rows else rows.take(new))
            many = sum(table.num_rows for table in self._held) >= MOST_ROWS
            large = sum(table.nbytes for table in self._held) >= MOST_BYTES
            if many or large or self._clock() - self._since >= MOST_S:
                self.flush()

    def flush(self) -> None:
        """Writes what is held. Raises like `add`."""
        with self._lock:
            while self._held or self._pending is not None:
                if self._pending is None:
                    self._pending, self._held = pa.concat_tables(self._held), []
                self._write(self._pending)
                self._pending = None
                self._files += 1

    def close(self, *, complete: bool) -> None:
        """Writes what is held and lets the output go. `complete`: all the work is done. Raises like `add`."""
        self._stop.set()
        with self._lock:
            if self._run.id in lease.mine:
                try:
                    self.flush()
                    self._commit(ends=True, complete=complete)
                finally:
                    lease.end(self._run)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close(complete=False)
        else:  # which is what is to be told
            with suppress(StorageError, OutputError):
                self.close(complete=False)

    def _write(self, rows: pa.Table) -> None:
        """One swap: the rows are in, and those that they replace are out. Does the same if it is done again."""
        name = f"{FOLDER}/{self._run.id}-{self._files:06}"
        errors = pc.is_valid(rows["error"])
        new = write_part(self._place, f"{name}.parquet", [rows.filter(pc.invert(errors))])
        new += write_part(self._place, f"{name}-errors.parquet", [rows.filter(errors)])
        ids = rows["id"].to_pylist()
        left, names = self._redoing.rewritten(ids, f"{name}-left")
        self._commit([*new, *left], {*names})
        self._redoing.forget(ids, names)

    def _commit(
        self, new: list[Part] | None = None, old: set[str] | None = None, *, ends: bool = False, complete: bool = False
    ) -> None:
        now = self._clock()
        stored = read_manifest(self._place)  # not self.manifest: another run may have taken over
        if stored is None or stored.run is None or stored.run.id != self._run.id:
            raise OutputError(f"{self._place.uri} is not this run's any more: another run took it over, or deleted it")
        swept = sweep(self._place, swapped(stored, new or [], old or set(), now), now)
        run = None if ends else replace(self._run, heartbeat=now)
        manifest = replace(swept, run=run, complete=complete, updated=now)
        write_manifest(self._place, manifest)
        self.manifest = manifest

    def _clean(self, *, alone: bool) -> None:
        """What no manifest lists goes: at once if nobody can be about to list it, else as if it had been a part."""
        left = [name for name in strays(self._place, self.manifest) if not (alone and delete(self._place, name))]
        if left and not alone:
            self._commit([], {*left})

    def _read_done(self, retry_errors: bool) -> None:
        if retry_errors:
            new, old = gathered(self._place, self.manifest, f"{FOLDER}/{self._run.id}-errors")
            if old:  # the same rows, in one swap
                self._commit(new, old)
        names = [part.name for part in self.manifest.parts]
        with ThreadPoolExecutor(_READERS, thread_name_prefix="output-ids") as pool:
            found = pool.map(partial(read_ids, self._place), names)
            for part, ids in zip(self.manifest.parts, found, strict=True):
                if retry_errors and part.errors:
                    self._redoing.add(ids, part.name)
                else:
                    self.done.update(ids)

    def _beat(self) -> None:
        """Says that this run lives; writes what has been held for long while no rows come."""
        while not self._stop.wait(lease.HEARTBEAT_S):
            with self._lock, suppress(StorageError):  # which the next flush meets, and tells
                if self._stop.is_set():
                    return
                try:
                    if self._held:
                        self.flush()
                    else:
                        self._commit()
                except OutputError:
                    return
