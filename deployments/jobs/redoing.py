"""Rows with an error that a run does again: they lie in parts of their own, which lose a row as it is redone."""

from __future__ import annotations

from collections.abc import Iterable

from deployments.jobs.manifest import Manifest, Part
from deployments.jobs.parts import of_rows, read_part, without, write_part
from deployments.jobs.storage import Place

ERRORS_A_PART = 10_000  # after they were gathered: as many are written again when one of them is redone


class Redoing:
    """In which part each of these rows is. Of none, unless `add` says so."""

    def __init__(self, output: Place) -> None:
        self._output = output
        self._part: dict[str, str] = {}  # by id

    def add(self, ids: Iterable[str], part: str) -> None:
        self._part.update(dict.fromkeys(ids, part))

    def rewritten(self, ids: Iterable[str], name: str) -> tuple[list[Part], dict[str, str]]:
        """Writes the parts that hold any of these rows without them.

        Args:
            name: how the new ones begin.

        Returns:
            The new parts, and for each old one what its new name is, or would be if anything were left of it.

        Raises:
            OutputError, StorageError: as `read_part` and `write_part`. Nothing is changed, and it may be done again.
        """
        wanted: dict[str, set[str]] = {}
        for id in ids:
            if id in self._part:
                wanted.setdefault(self._part[id], set()).add(id)
        names = {old: f"{name}-{number}.parquet" for number, old in enumerate(wanted)}
        new: list[Part] = []
        for old, gone in wanted.items():
            new += write_part(self._output, names[old], without(read_part(self._output, old), gone))
        return new, names

    def forget(self, ids: Iterable[str], names: dict[str, str]) -> None:
        """The rewritten parts are in the place of the old ones."""
        if names:
            gone = set(ids)
            self._part = {id: names.get(part, part) for id, part in self._part.items() if id not in gone}


def gathered(output: Place, manifest: Manifest, name: str) -> tuple[list[Part], set[str]]:
    """Writes the rows of many small parts of errors into few, and returns these and the names of those.

    Args:
        name: how the new ones begin.

    Raises:
        OutputError, StorageError: as `read_part` and `write_part`.
    """
    small = [part.name for part in manifest.parts if 0 < part.errors < ERRORS_A_PART]
    if len(small) < 2:
        return [], set()
    tables = (table for part in small for table in read_part(output, part))
    new: list[Part] = []
    for number, group in enumerate(of_rows(tables, ERRORS_A_PART)):
        new += write_part(output, f"{name}-{number:06}.parquet", group)
    return new, {*small}
