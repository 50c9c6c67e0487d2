"""Fetching official weights: resumed after a break, held to the registry's hash, put in place in one step. No torch.

This runs when a person asks for it (`text2mask download`), never when a model is built or a request is served.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pipeline.models.registry import (
    CHECKPOINTS,
    EMBEDDED_NAME,
    BundleError,
    Checkpoint,
    find,
    folders,
    names,
    unknown_name,
)
from pipeline.models.weights import sha256_of

try:
    import fcntl
except ImportError:  # Windows: two downloads of one file at once are then caught by the hash only
    fcntl = None  # type: ignore[assignment,unused-ignore]

ATTEMPTS = 5  # in a row without a new byte
PAUSE_S = 1.0  # before the second attempt, doubled each time
MARGIN = 64 * 2**20  # bytes of disk space left free
LARGEST = 8 * 2**30  # bytes; the cap where the registry does not know a file's size
CHUNK = 2**20
TIMEOUT = httpx.Timeout(30.0, read=60.0)

Report = Callable[[int, int | None], None]  # bytes so far, bytes in all


def download(model: str, *, folder: Path | None = None, console: Console | None = None) -> list[Path]:
    """Fetch the official weights that `model` names: one part (`"swint"`) or several (`"swint+vit_b"`).

    Returns:
        The verified files, one a part; an embedded part has none.

    Raises:
        BundleError: an unknown name, no connection, no space, or a file that is not the published one.
    """
    parts = model.split("+")
    for part in parts:
        if part not in names():
            raise BundleError(
                f"{part!r} is not a known model; {unknown_name(part, names())}known: {', '.join(names())}."
            )
    console = console or Console()
    paths = []
    for part in parts:
        if part == EMBEDDED_NAME:
            _say(console, f"{part}: comes with text2mask, nothing to fetch.")
        else:
            paths.append(fetch(CHECKPOINTS[part], folder=folder, console=console))
    return paths


def fetch(
    checkpoint: Checkpoint, *, folder: Path | None = None, console: Console | None = None, pause_s: float = PAUSE_S
) -> Path:
    """Fetch one file into `folder`, by default the first of `registry.folders()`; a file already there is verified.

    Proxies and certificates come from the usual environment variables. Raises BundleError as `download` does.
    """
    console = console or Console()
    present = find(checkpoint) if folder is None else folder / checkpoint.file
    folder = folder or folders()[0]
    if present is not None and present.is_file():
        return _verified(present, checkpoint, console)
    _say(console, f"{checkpoint.file}: licence {checkpoint.licence}, from {checkpoint.url}")
    target, part = folder / checkpoint.file, folder / f"{checkpoint.file}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(part) as file, _progress(checkpoint.file, console) as report:
            if target.is_file():  # another process finished just now
                part.unlink(missing_ok=True)
                return _verified(target, checkpoint, console)
            resumed = _fetch_all(checkpoint, file, report, pause_s)
            if sha256_of(part) != checkpoint.sha256 and resumed:
                file.truncate(0)  # the first piece may have come from another file: once more, from zero
                _fetch_all(checkpoint, file, report, pause_s)
            actual = sha256_of(part)
            if actual != checkpoint.sha256:
                part.unlink()
                raise BundleError(
                    f"Refused: what {checkpoint.url} served is not the published {checkpoint.file}. Its SHA-256 is "
                    f"{actual}, expected {checkpoint.sha256}. The file was removed."
                )
            os.fsync(file.fileno())
            part.replace(target)
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error}") from error
    _say(console, f"{target}: verified (SHA-256 {checkpoint.sha256[:12]}...)")
    return target


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)


def _verified(path: Path, checkpoint: Checkpoint, console: Console) -> Path:
    actual = sha256_of(path)
    if actual != checkpoint.sha256:
        raise BundleError(
            f"{path} is there, but is not the published {checkpoint.file}: its SHA-256 is {actual}, expected "
            f"{checkpoint.sha256}. Move it away and run this again; for weights of your own, see docs/bundles.md."
        )
    _say(console, f"{path}: already there, verified.")
    return path


def _fetch_all(checkpoint: Checkpoint, file: BinaryIO, report: Report, pause_s: float) -> bool:
    """Fetch what `file` still lacks, over several connections if need be. Returns whether it began with a piece."""
    resumed = file.seek(0, os.SEEK_END) > 0
    failures = 0
    with httpx.Client(follow_redirects=True, timeout=TIMEOUT) as client:
        while True:
            before = file.seek(0, os.SEEK_END)
            try:
                _fetch_rest(client, checkpoint, file, report)
                file.flush()
                return resumed
            except httpx.HTTPError as error:
                if isinstance(error, httpx.HTTPStatusError) and not _worth_repeating(error.response.status_code):
                    raise BundleError(f"{checkpoint.url} answered {error.response.status_code}.") from error
                failures = 1 if file.seek(0, os.SEEK_END) > before else failures + 1
                if failures >= ATTEMPTS:
                    raise BundleError(
                        f"{checkpoint.url} could not be fetched: {error or type(error).__name__}. What came is kept: "
                        "the same command goes on from there."
                    ) from error
                time.sleep(pause_s * 2 ** (failures - 1))


def _worth_repeating(status: int) -> bool:
    return status in (408, 429) or status >= 500


def _fetch_rest(client: httpx.Client, checkpoint: Checkpoint, file: BinaryIO, report: Report) -> None:
    have = file.seek(0, os.SEEK_END)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with client.stream("GET", checkpoint.url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # nothing is left to fetch: the hash tells whether that is so
        response.raise_for_status()
        start, total = _extent(response)
        if start != have:  # the server ignores ranges, or answers another one
            file.truncate(0)
            have = 0
            if start:
                raise httpx.ReadError("the server answered another range than the one asked for")
        _check_size(checkpoint, total, have, file)
        total = total or checkpoint.bytes
        for chunk in response.iter_raw(CHUNK):
            file.write(chunk)
            have += len(chunk)
            if have > (checkpoint.bytes or LARGEST):
                file.truncate(0)
                raise BundleError(f"Refused: {checkpoint.url} serves more than the published {checkpoint.file} holds.")
            report(have, total)
        if total is not None and have < total:
            raise httpx.ReadError("the connection ended early")


def _extent(response: httpx.Response) -> tuple[int, int | None]:
    """First byte of the body within the file, and the file's size where the server tells."""
    if response.status_code == httpx.codes.PARTIAL_CONTENT:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            return -1, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _check_size(checkpoint: Checkpoint, total: int | None, have: int, file: BinaryIO) -> None:
    if None not in (total, checkpoint.bytes) and total != checkpoint.bytes:
        raise BundleError(
            f"Refused: {checkpoint.url} offers {total:,} bytes; the published {checkpoint.file} has "
            f"{checkpoint.bytes:,}."
        )
    lacking = (total or checkpoint.bytes or 0) - have
    free = shutil.disk_usage(os.path.dirname(os.path.abspath(file.name))).free
    if lacking + MARGIN > free:
        raise BundleError(
            f"Not enough disk space for {checkpoint.file}: {lacking / 1e6:,.0f} MB to fetch, {free / 1e6:,.0f} MB free "
            f"at {os.path.dirname(file.name)}."
        )


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The unfinished file, open for appending, by this process only."""
    with part.open("ab") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BundleError(f"Another process is fetching {part.name.removesuffix('.part')} now.") from None
        yield file


@contextmanager
def _progress(name: str, console: Console) -> Iterator[Report]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
