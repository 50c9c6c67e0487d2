"""Files that are put together piece by piece, on this machine, and then go where they belong at once."""

from __future__ import annotations

import json
import mmap
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from tempfile import TemporaryFile
from typing import IO, Any

from deployments.jobs.export_names import Survey
from deployments.jobs.rows import Row
from deployments.jobs.storage import Place
from pipeline.formats.coco import coco_annotations
from pipeline.result import Result


class Dataset:
    """One COCO dataset, in which every image is once, with all that was found in it.

    Rows of one image with different prompts are one image there: an object that another prompt found is no background.
    A row that repeats path and prompt is left out. Only images of several rows are remembered.

    Args:
        open_files: closes what this opens.
    """

    def __init__(self, open_files: ExitStack, target: Place, survey: Survey, model: str) -> None:
        self._target = target
        self._survey = survey
        names = survey.categories.items()
        start = {
            "info": {"description": f"made with text2mask: {model}"},
            "licenses": [],
            "categories": [{"id": number, "name": name, "supercategory": ""} for name, number in names],
        }
        self._annotations = _Items(open_files, before=f'{json.dumps(start)[:-1]}, "annotations": [')
        self._images = _Items(open_files, before='],\n"images": [')
        self._several: dict[str, tuple[int, set[int]]] = {}  # of those: number, and hashes of prompts

    def add(self, row: Row, result: Result) -> None:
        number = self._images.count + 1
        if self._survey.is_repeated(row.path):
            number, prompts = self._several.setdefault(row.path, (number, set()))
            if hash(row.prompt) in prompts:
                return
            prompts.add(hash(row.prompt))
        if number > self._images.count:
            height, width = result.image_size
            name = self._survey.place_of(row.path)
            self._images.add({"id": number, "file_name": name, "width": width, "height": height})
        for one in coco_annotations(result, self._survey.categories):
            self._annotations.add({"id": self._annotations.count + 1, "image_id": number, **one})

    def finish(self) -> None:
        """Raises StorageError."""
        whole, images = self._annotations.file, self._images.file
        images.seek(0)
        shutil.copyfileobj(images, whole, 2**20)
        whole.write(b"]}\n")
        _send(whole, self._target)


class Lines:
    """JSON Lines: the path as `file`, the prompt, and the answer of the HTTP API with the row's id as its own.

    Args:
        open_files: closes what this opens.
    """

    def __init__(self, open_files: ExitStack, target: Place) -> None:
        self._target = target
        self._file = open_files.enter_context(TemporaryFile())  # noqa: SIM115

    def add(self, row: Row, result: Result) -> None:
        before = {"file": row.path, "prompt": row.prompt, "id": row.id}
        self._file.write(f"{json.dumps(before, ensure_ascii=False, separators=(',', ':'))[:-1]},".encode())
        pieces = result.json_pieces()
        self._file.write(next(pieces).removeprefix("{").encode())
        self._file.writelines(piece.encode() for piece in pieces)
        self._file.write(b"\n")

    def finish(self) -> None:
        """Raises StorageError."""
        _send(self._file, self._target)


class _Items:
    """Items of a JSON list, one a line, in a file without a name."""

    def __init__(self, open_files: ExitStack, before: str) -> None:
        self.file = open_files.enter_context(TemporaryFile())  # noqa: SIM115
        self.file.write(before.encode())
        self.count = 0

    def add(self, item: Mapping[str, Any]) -> None:
        self.file.write(f"{',' * (self.count > 0)}\n{json.dumps(item)}".encode())
        self.count += 1


def _send(file: IO[bytes], target: Place) -> None:
    """The file's bytes stay where they are: they are written from its pages."""
    file.flush()
    if not file.tell():
        target.write(b"")
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        target.write(pages)  # type: ignore[arg-type]  # which has the buffer of bytes, and is written like them
