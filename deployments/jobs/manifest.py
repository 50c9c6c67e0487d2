"""`_manifest.json`: which files are the output, made how, and who writes it. Whatever it lists is the truth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from deployments.jobs.storage import Place, StorageError
from pipeline import __version__

NAME = "_manifest.json"
FORMAT = 1


class OutputError(ValueError):
    """The output cannot be used as asked; the message says why, and what a person can do."""


@dataclass(frozen=True, slots=True)
class Part:
    """One parquet file: its name below the output, its rows, how many of them are errors (all or none), its bytes."""

    name: str
    rows: int
    errors: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Retired:
    """A file that is no part any more, and since when (Unix seconds); readers may still be at it."""

    name: str
    at: float


@dataclass(frozen=True, slots=True)
class Run:
    """Who writes.

    Attributes:
        id: of the run.
        host, pid: of its process, for people to read.
        where: the machine since its start, and its space of process numbers; None where there is no telling.
        started: tells the process from another one that was given its number; None as above.
        heartbeat: when it was last heard of, Unix seconds of its own clock.
    """

    id: str
    host: str
    pid: int
    where: str | None
    started: str | None
    heartbeat: float


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the file says; `images` and `errors` are sums over the parts."""

    model: str
    settings: Mapping[str, Any]
    parts: tuple[Part, ...] = ()
    retired: tuple[Retired, ...] = ()
    run: Run | None = None
    complete: bool = False
    updated: float = 0.0

    @property
    def images(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def errors(self) -> int:
        return sum(part.errors for part in self.parts)


def write_manifest(place: Place, manifest: Manifest) -> None:
    """Puts it in place of the one before, at once. Raises StorageError, after which it is there or it is not."""
    plain = {"format": FORMAT, "text2mask": __version__, **asdict(manifest)}
    plain |= {"images": manifest.images, "errors": manifest.errors}
    place.child(NAME).write(f"{json.dumps(plain, ensure_ascii=False, indent=1)}\n".encode())


def read_manifest(place: Place) -> Manifest | None:
    """None where there is none.

    Raises:
        OutputError: it is no manifest, or of a later format.
        StorageError: it cannot be read.
    """
    try:
        data = place.child(NAME).read()
    except StorageError as error:
        if error.code == "image_not_found":
            return None
        raise
    try:
        plain = json.loads(data)
        form = plain["format"]
        if form == FORMAT:
            return _manifest(plain)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OutputError(f"{place.uri}: {NAME} is damaged, or not of text2mask") from None
    raise OutputError(f"{place.uri} was made by a later text2mask ({plain.get('text2mask')}), in a format unknown here")


def _manifest(plain: Mapping[str, Any]) -> Manifest:
    run = plain["run"]
    return Manifest(
        model=plain["model"],
        settings=dict(plain["settings"]),
        parts=tuple(Part(**_known(Part, one)) for one in plain["parts"]),
        retired=tuple(Retired(**_known(Retired, one)) for one in plain["retired"]),
        run=None if run is None else Run(**_known(Run, run)),
        complete=plain["complete"],
        updated=plain["updated"],
    )


def _known(kind: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    """What `kind` has fields for: a later version may write more."""
    return {one.name: plain[one.name] for one in fields(kind)}
