"""What comes before the first row: whether an output may be written as asked, and by whom; what dead runs left goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployments.jobs import lease
from deployments.jobs.manifest import NAME, Manifest, OutputError, Part, Retired, Run, read_manifest, write_manifest
from deployments.jobs.parts import FOLDER
from deployments.jobs.storage import Place, StorageError

KEPT_S = 3600.0  # a file that is no part any more stays so long, for those who read by an earlier manifest
_SHOWN = 60  # characters of a setting in a refusal
_HASH = 12


def take(
    place: Place, settings: Mapping[str, Any], *, overwrite: bool, take_over: bool, now: float
) -> tuple[Manifest, bool]:
    """Makes this process the one that writes, in one swap of the manifest.

    Returns:
        The manifest, and whether whoever wrote before is known to write no more.

    Raises:
        OutputError: see `Output.open`. StorageError: the output cannot be read or written.
    """
    wanted = json.loads(json.dumps(dict(settings)))
    before = read_manifest(place)
    if before is None:
        refuse_file(place)
        _refuse_foreign(place)
        before = Manifest(wanted["model"], wanted)
    if before.run is not None and not take_over:
        _refuse_company(place, before.run, now)
    if not overwrite and before.parts:  # without a row there is nothing to mix with
        _refuse_difference(before.settings, wanted)
    after = before if not overwrite else swapped(before, [], {part.name for part in before.parts}, now)
    run = lease.begin(now)
    after = replace(after, model=wanted["model"], settings=wanted, run=run, complete=False, updated=now)
    try:
        write_manifest(place, after)
    except BaseException:
        lease.end(run)
        raise
    return after, before.run is None or lease.state(before.run, now) == "dead"


def swapped(before: Manifest, new: list[Part], old: set[str], now: float) -> Manifest:
    """With `new` parts for those named `old`, all at once. The same again if it is done again."""
    names = {part.name for part in new}
    kept = [part for part in before.parts if part.name not in old | names]
    known = {one.name for one in before.retired}
    retired = [*before.retired, *(Retired(name, now) for name in sorted(old - known))]
    return replace(before, parts=(*kept, *new), retired=tuple(retired))


def strays(place: Place, manifest: Manifest) -> list[str]:
    """Names of the files that the manifest knows nothing of: written by a run that died before it listed them."""
    known = {part.name for part in manifest.parts} | {one.name for one in manifest.retired}
    root = f"{place.uri.rstrip('/')}/"
    found = [entry.uri.removeprefix(root) for entry in place.child(FOLDER).files()]
    if place.is_local:  # where a file is written under another name first
        found += [path.name for path in Path(place.uri).glob(f".{NAME}.*")]
    return [name for name in found if name not in known]


def sweep(place: Place, manifest: Manifest, now: float) -> Manifest:
    """Deletes what was retired `KEPT_S` ago. What cannot be deleted stays listed, for the next time."""
    left = [one for one in manifest.retired if not (now - one.at > KEPT_S and delete(place, one.name))]
    return replace(manifest, retired=tuple(left))


def delete(place: Place, name: str) -> bool:
    """Whether the file is gone. Tidying up is no reason for a run to fail."""
    with suppress(StorageError):
        place.child(name).delete()
        return True
    return False


def refuse_file(place: Place) -> None:
    """Raises OutputError where a folder was to be named, and a file was."""
    if place.is_local and Path(place.uri).is_file():
        raise OutputError(f"{place.uri} is a file; name a folder, there or not")


def _refuse_foreign(place: Place) -> None:
    root = f"{place.uri.rstrip('/')}/"
    for entry in place.files():
        name = entry.uri.removeprefix(root)
        if not name.rpartition("/")[2].startswith("."):
            raise OutputError(f"{place.uri} has files in it and no {NAME}, so it is no output of a job; take another")


def _refuse_company(place: Place, run: Run, now: float) -> None:
    if lease.state(run, now) != "alive":
        return
    heard = f"heard of {max(0, now - run.heartbeat):.0f} s ago"
    raise OutputError(
        f"{place.uri} is being written by process {run.pid} on {run.host}, {heard}; wait for it, or stop it. "
        "--take-over goes on in its place, if it is surely gone"
    )


def _refuse_difference(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    names = [name for name in {**made, **wanted} if made.get(name) != wanted.get(name)]
    if names:
        differences = "; ".join(f"{name} {_shown(made.get(name))}, not {_shown(wanted.get(name))}" for name in names)
        raise OutputError(f"this output was made with {differences}; take another --out, or --overwrite to begin anew")


def _shown(value: object) -> str:
    if value is None:
        return "unset"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) >= 40 and all(sign in "0123456789abcdef" for sign in text):
        return f"{text[:_HASH]}…"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
