"""What other programs take, made of an output after the run: COCO, mask PNGs, overlays, JSON Lines."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from deployments.answer_files import WHOLE
from deployments.fetch_settings import FetchSettings
from deployments.jobs.export_files import Dataset, Lines
from deployments.jobs.export_names import survey
from deployments.jobs.export_pictures import Images, write_masks, write_overlay
from deployments.jobs.manifest import Manifest, OutputError
from deployments.jobs.opening import refuse_file
from deployments.jobs.results import manifest_of, rows_of
from deployments.jobs.rows import Row
from deployments.jobs.storage import Place, StorageOptions, place
from pipeline.errors import StageError
from pipeline.image import ImageLimits
from pipeline.result import Result

Form = Literal["coco", "jsonl", "masks", "overlay"]
Done = TypeVar("Done")
OnProgress = Callable[[int, int], None]

_DEFAULT = StorageOptions()
_WORKERS = 4  # images drawn, encoded and written at a time, each perhaps 150 MB of pixels
_AT_A_TIME = 64  # rows whose images are read together


@dataclass(slots=True)
class Exported:
    """What an export has done.

    Attributes:
        images: rows with a result.
        errors: rows without one, which are left out.
        instances: of all results.
        masks, overlays: files written.
        not_drawn: images that could not be read again for an overlay, by error code.
        root: the folder that all images lie in; names in the export are relative to it.
    """

    images: int = 0
    errors: int = 0
    instances: int = 0
    masks: int = 0
    overlays: int = 0
    not_drawn: Counter[str] = field(default_factory=Counter)
    root: str = ""


def export_results(
    output: str | os.PathLike[str],
    target: str | os.PathLike[str],
    forms: Sequence[Form],
    *,
    options: StorageOptions = _DEFAULT,
    overwrite: bool = False,
    fetch: FetchSettings | None = None,
    on_progress: OnProgress | None = None,
) -> Exported:
    """Writes all results that are there when it is called; rows with an error are left out.

    Of an image at `a/x.jpg` below the folder that all images lie in, `overlay` is `a/x.jpg.overlay.png` and `masks` is
    the folder `a/x.jpg.masks`; `coco` is `instances.json` and `jsonl` is `answers.jsonl`. They are put together in the
    folder for temporary files, since they may be larger than the memory.

    Args:
        output: of a job; it may go on meanwhile.
        target: a folder or URI.
        forms: of `coco`, `jsonl`, `masks`, `overlay`.
        options: how output, target and images are reached.
        overwrite: files may be in the target, and those of the same names are replaced.
        fetch: from which hosts images at `https://` are fetched for overlays; none by default.
        on_progress: called with the rows done and all rows.

    Raises:
        ValueError: there is no such form, or none is asked for.
        OutputError: the output is none, or the target has files in it or is part of the output.
        StorageError: something cannot be read or written.
    """
    unknown = [form for form in forms if form not in get_args(Form)]
    if unknown or not forms:
        raise ValueError(f"forms must be some of {', '.join(get_args(Form))}; not {', '.join(unknown) or 'none'}")
    source, goal = place(output, options), place(target, options)
    manifest = manifest_of(source)
    _check(source, goal, overwrite)
    return _Export(source, goal, manifest, set(forms), overwrite, fetch or FetchSettings()).run(on_progress)


class _Export:
    """One export, from the manifest as it was at its beginning."""

    def __init__(
        self, source: Place, goal: Place, manifest: Manifest, forms: set[str], overwrite: bool, fetch: FetchSettings
    ) -> None:
        self._source, self._goal, self._manifest = source, goal, manifest
        self._forms = forms
        self._overwrite = overwrite
        self._survey = survey(source, manifest)
        self._limits = _limits(manifest)
        self._images = Images(source.options, self._limits, fetch)
        self._done = Exported(errors=manifest.errors, root=self._survey.root_uri)

    def run(self, on_progress: OnProgress | None) -> Exported:
        seen = 0
        with ExitStack() as open_files, ThreadPoolExecutor(_WORKERS, thread_name_prefix="export") as pool:
            files = self._files(open_files)
            for rows in _some(rows_of(self._source, self._manifest)):
                fine = [(row, row.result) for row in rows if row.result is not None]
                self._done.images += len(fine)
                for row, result in fine:
                    self._done.instances += len(result)
                    for file in files:
                        file.add(row, result)
                self._pictures(pool, [row for row, _ in fine])
                seen += len(rows)
                if on_progress is not None:
                    on_progress(seen, self._manifest.images)
            for file in files:
                file.finish()
        return self._done

    def _files(self, open_files: ExitStack) -> list[Dataset | Lines]:
        files: list[Dataset | Lines] = []
        if "coco" in self._forms:
            files.append(Dataset(open_files, self._goal.child(WHOLE["coco"]), self._survey, self._manifest.model))
        if "jsonl" in self._forms:
            files.append(Lines(open_files, self._goal.child(WHOLE["jsonl"])))
        return files

    def _pictures(self, pool: ThreadPoolExecutor, rows: Sequence[Row]) -> None:
        if "masks" in self._forms:
            self._done.masks += sum(_in_turn(pool, self._masks, ((row,) for row in rows)))
        if "overlay" in self._forms:
            for code in _in_turn(pool, self._overlay, self._images.of(rows)):
                if code is None:
                    self._done.overlays += 1
                else:
                    self._done.not_drawn[code] += 1

    def _masks(self, row: Row) -> int:
        name = self._survey.name(row.id, row.path)
        return write_masks(self._goal, name, _result(row), overwrite=self._overwrite)

    def _overlay(self, row: Row, image: bytes | None, code: str) -> str | None:
        """None, or why there is no overlay."""
        if image is None:
            return code
        try:
            write_overlay(self._goal, self._survey.name(row.id, row.path), _result(row), image, self._limits)
        except StageError as error:
            return error.code
        except ValueError:
            return "image_changed"
        return None


def _result(row: Row) -> Result:
    assert row.result is not None
    return row.result


def _some(rows: Iterator[Row]) -> Iterator[list[Row]]:
    some: list[Row] = []
    for row in rows:
        some.append(row)
        if len(some) == _AT_A_TIME:
            yield some
            some = []
    if some:
        yield some


def _in_turn(pool: ThreadPoolExecutor, call: Callable[..., Done], items: Iterable[tuple[Any, ...]]) -> Iterator[Done]:
    """`call` of each item, in order, done by threads that are a few items ahead of whoever asks."""
    running: deque[Future[Done]] = deque()
    for item in items:
        running.append(pool.submit(call, *item))
        if len(running) > _WORKERS:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()


def _limits(manifest: Manifest) -> ImageLimits:
    """Those that the job had."""
    usual = ImageLimits()
    return ImageLimits(
        max_bytes=manifest.settings.get("max_image_bytes") or usual.max_bytes,
        max_pixels=manifest.settings.get("max_image_pixels") or usual.max_pixels,
    )


def _check(source: Place, goal: Place, overwrite: bool) -> None:
    refuse_file(goal)
    if f"{goal.uri}/".startswith(f"{source.uri}/"):
        raise OutputError(f"{goal.uri} lies in the output itself; take another target")
    if not overwrite and next(goal.files(), None) is not None:
        raise OutputError(f"{goal.uri} has files in it; take another target, or --overwrite to replace those of a name")
