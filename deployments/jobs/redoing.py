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
        self._names: list[str] = []
        self._number: dict[str, int] = {}  # of a part: where its name is, which changes as it is written again
        self._part: dict[str, int] = {}  # by id, that number

    def add(self, ids: Iterable[str], part: str) -> None:
        number = self._number.setdefault(part, len(self._names))
        if number == len(self._names):
            self._names.append(part)
        self._part.update(dict.fromkeys(ids, number))

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
                wanted.setdefault(self._names[self._part[id]], set()).add(id)
        names = {old: f"{name}-{number}.parquet" for number, old in enumerate(wanted)}
        new: list[Part] = []
        for old, gone in wanted.items():
            new += write_part(self._output, names[old], without(read_part(self._output, old), gone))
        return new, names

    def forget(self, ids: Iterable[str], names: dict[str, str]) -> None:
        """The rewritten parts are in the place of the old ones. Costs what is redone, not what is left."""
        for id in ids:
            self._part.pop(id, None)
        for old, new in names.items():
            number = self._number.pop(old)
            self._number[new], self._names[number] = number, new


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
