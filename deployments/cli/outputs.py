"""Where answers go: standard output, or files in a folder.

Of the picture `a/x.jpg` (its place below what was named) a folder gets

    a/x.jpg.json            json: the answer of the HTTP API, or its error
    a/x.jpg.overlay.png     overlay: the picture with its masks
    a/x.jpg.masks/          masks: a PNG of each instance, 255 inside and 0 elsewhere: 000-red_circle.png is that of
                            detections[0]; as large as the upright picture
    answers.jsonl           jsonl: of all pictures, a line each
    instances.json          coco: of all pictures that have an answer

A name keeps the ending of its picture, so `x.jpg` and `x.png` stay apart. A file is there whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from deployments.answer_files import ENDINGS, WHOLE
from deployments.cli.complaints import FailedError, UsageError
from deployments.cli.inputs import Picture


class Form(StrEnum):
    """What `--format` takes."""

    JSON = "json"
    JSONL = "jsonl"
    COCO = "coco"
    OVERLAY = "overlay"
    MASKS = "masks"


_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Where files go.

    Attributes:
        folder: of all forms; None: answers go to standard output.
        overlay: one more file, of one picture.
        overwrite: replace what is there.
    """

    folder: Path | None
    forms: tuple[Form, ...]
    overlay: Path | None = None
    overwrite: bool = False

    def file(self, picture: Picture, form: Form) -> Path:
        """The file or folder of one picture's answer in a form that has one for each."""
        assert self.folder is not None
        return self.folder / picture.name.with_name(picture.name.name + ENDINGS[form])

    def whole(self, form: Form) -> Path | None:
        """The file of all pictures' answers in a form that has one; None: standard output."""
        return None if self.folder is None else self.folder / WHOLE[form]

    def check(self, pictures: Sequence[Picture]) -> None:
        """Raises UsageError if files would be lost, lie elsewhere than asked, or cannot be there."""
        targets = [*self._targets(pictures)]
        twice = len(targets) - len({*targets})
        if twice:
            raise UsageError(f"{twice} outputs would have the name of another; name fewer pictures at a time")
        inputs = {picture.path.resolve() for picture in pictures if picture.path is not None}
        for target in targets:
            if target.resolve() in inputs:
                raise UsageError(f"{target} is a picture to be looked at, and would be overwritten")
        self._check_folder(targets)
        there = [] if self.overwrite else [str(target) for target in targets if os.path.lexists(target)]
        if there:
            some = ", ".join(there[:_SHOWN]) + (f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else "")
            raise UsageError(f"{some}: there already. --overwrite replaces what is there; another place keeps both")

    def _targets(self, pictures: Sequence[Picture]) -> Iterator[Path]:
        if self.overlay is not None:
            yield self.overlay
        if self.folder is None:
            return
        for form in self.forms:
            if form in ENDINGS:
                yield from (self.file(picture, form) for picture in pictures)
            elif (target := self.whole(form)) is not None:
                yield target

    def _check_folder(self, targets: Iterable[Path]) -> None:
        if self.overlay is not None and not self.overlay.parent.is_dir():
            raise UsageError(f"--overlay: there is no folder {self.overlay.parent}")
        if self.folder is None:
            return
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise UsageError(f"--out {self.folder} is no folder")
        inside = self.folder.resolve()
        for parent in {target.parent for target in targets if target is not self.overlay}:
            if not parent.resolve().is_relative_to(inside):
                raise UsageError(f"{parent} is a link out of {self.folder}; take another folder")


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A new file that becomes `target` at the end of the block, at once; nothing is left of it if that fails.

    Raises:
        FailedError: it cannot be written.
    """
    part = target.with_name(f".text2mask-{uuid4().hex[:12]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            yield file
        part.replace(target)
    except OSError as error:
        raise FailedError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
