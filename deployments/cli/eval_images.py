"""The images of an evaluation, read from where they lie, and their answers, gathered to be judged."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from deployments.cli.answers import Answer, Failure, ahead
from deployments.cli.complaints import FailedError, UsageError
from deployments.cli.inputs import Picture
from deployments.cli.outputs import replacing
from pipeline.annotations import AnnotationError, Row, Style, Truth, read_truth
from pipeline.evaluation import Found, Kind
from pipeline.image import ImageLimits
from pipeline.result import Result

if TYPE_CHECKING:
    from deployments.jobs.storage import Place, StorageOptions

AHEAD = 8  # images read while one is looked at: a bucket is far away


def truth_at(uri: str, style: Style, options: StorageOptions) -> Truth:
    """The annotations. Raises UsageError where they cannot be read or are none."""
    from deployments.jobs.storage import StorageError, place

    try:
        return read_truth(place(uri, options).read(), style)
    except (StorageError, AnnotationError) as error:
        raise UsageError(f"--annotations {uri}: {error}") from None


def folder_at(uri: str, options: StorageOptions) -> Place:
    """The folder of images, once its store has answered. Raises UsageError where it is none."""
    from deployments.jobs.storage import StorageError, place

    try:
        folder = place(uri, options)
        folder.check()
        if folder.is_local and folder.kind() != "folder":
            raise UsageError(f"--images {uri}: there is no such folder")
    except StorageError as error:
        raise UsageError(f"--images {uri}: {error}") from None
    return folder


def pictures_of(truth: Truth) -> list[Picture]:
    """A picture for each image, in its order."""
    return [Picture(one["file_name"], PurePosixPath(one["file_name"]), None) for one in truth.images]


class StoredImages:
    """Reads the images below a folder, some ahead of whoever asks; they are asked for in order."""

    def __init__(self, folder: Place, truth: Truth) -> None:
        self._folder = folder
        self._coming = ahead(self._fetch, (one["file_name"] for one in truth.images), AHEAD)

    def __call__(self, picture: Picture, most: int) -> bytes | Failure:
        name, data = next(self._coming)
        assert name == picture.shown
        return data

    def _fetch(self, name: str) -> bytes | Failure:
        from deployments.jobs.storage import StorageError

        try:
            return self._folder.child(name).read(ImageLimits().max_bytes)
        except StorageError as error:
            return Failure(error.code, error.message)


def of_the_right_size(answers: Generator[Answer, None, None], truth: Truth) -> Generator[Answer, None, None]:
    """The answers; one about an image of another size than annotated is none: its boxes lie elsewhere."""
    with closing(answers):
        for answer, image in zip(answers, truth.images, strict=True):
            wanted = image["height"], image["width"]
            if isinstance(answer.found, Result) and answer.found.image_size != wanted:
                sizes = [f"{width}x{height}" for height, width in (answer.found.image_size, wanted)]
                why = f"the upright image is {sizes[0]}, its annotations are of {sizes[1]}"
                answer = Answer(answer.picture, Failure("image_size_differs", why))
            yield answer


class Gathering:
    """Takes every answer, in the order of the images, for the judge and into files.

    Attributes:
        found: all detections.
        failed: images without an answer, by the code of the reason.
        model: that answered, once one has.
    """

    def __init__(self, truth: Truth, style: Style, exports: Iterable[tuple[Kind, Path]] = ()) -> None:
        self.found = Found(truth, style)
        self.failed: Counter[str] = Counter()
        self.model: str | None = None
        self._ids: Iterator[int] = iter([one["id"] for one in truth.images])
        self._exports = [Export(kind, target) for kind, target in exports]

    def add(self, answer: Answer) -> None:
        image = next(self._ids)
        if isinstance(answer.found, Failure):
            self.failed[answer.found.code] += 1
            return
        self.model = answer.found.model
        rows = self.found.add(image, answer.found)
        for export in self._exports:
            export.write(self.found.rows(export.kind, rows))

    def finish(self) -> None:
        for export in self._exports:
            export.finish()


class Export:
    """One file of COCO's results, written as they come, a line each; at the end it is there, whole or not at all."""

    def __init__(self, kind: Kind, target: Path) -> None:
        self.kind = kind
        self._target = target
        self._open = ExitStack()
        self._file: BinaryIO | None = None
        self._failed = False

    def write(self, rows: Iterable[Row]) -> None:
        for row in rows:
            begin = b"[" if self._file is None else b",\n"
            self._put(begin + json.dumps(row, separators=(",", ":")).encode())

    def finish(self) -> None:
        if not self._failed:
            self._put(b"[]\n" if self._file is None else b"]\n")
            self._open.close()

    def _put(self, text: bytes) -> None:
        try:
            if self._file is None:
                self._file = self._open.enter_context(replacing(self._target))
            self._file.write(text)
        except (OSError, FailedError) as error:
            self._failed = True
            self._open.__exit__(type(error), error, error.__traceback__)  # which removes it, and says so
            raise
