"""Answers into their forms, one writer a form. Each takes every answer, in order, and is finished once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

import typer
from PIL import Image

from deployments.answer_files import is_mask_name, mask_names
from deployments.cli.answers import Answer, Failure
from deployments.cli.complaints import FailedError, UsageError
from deployments.cli.outputs import Form, Place, replacing
from pipeline.formats.coco import coco_dataset
from pipeline.formats.masks import AnswerForm, png
from pipeline.image import decode
from pipeline.result import Result


class Writer(Protocol):
    """Takes answers."""

    def add(self, answer: Answer) -> None: ...

    def finish(self) -> None: ...


def writers(place: Place, masks: AnswerForm, labels: Sequence[str]) -> list[Writer]:
    """Of every form that `place` has. `masks`: their form in JSON. `labels`: COCO's categories."""
    made: list[Writer] = [] if place.overlay is None else [Overlays(None, place.overlay)]
    for form in place.forms:
        match form:
            case Form.JSON:
                made.append(Answers(place, masks))
            case Form.JSONL:
                made.append(Lines(place.whole(form), masks))
            case Form.COCO:
                made.append(Dataset(place.whole(form), labels))
            case Form.OVERLAY:
                made.append(Overlays(place))
            case Form.MASKS:
                made.append(MaskFiles(place))
    return made


class Answers:
    """One JSON a picture: a file, or the one on standard output, where a failure has none."""

    def __init__(self, place: Place, masks: AnswerForm) -> None:
        self._place = place
        self._masks = masks

    def add(self, answer: Answer) -> None:
        text = f"{_json(answer, self._masks)}\n".encode()
        if self._place.folder is not None:
            _write(self._place.file(answer.picture, Form.JSON), text)
        elif isinstance(answer.found, Result):
            typer.echo(text, nl=False)

    def finish(self) -> None:
        pass


class Lines:
    """JSON Lines: `file`, and the answer or its error."""

    def __init__(self, target: Path | None, masks: AnswerForm) -> None:
        self._target = target
        self._masks = masks
        self._open = None if target is None else replacing(target)
        self._file: BinaryIO | None = None

    def add(self, answer: Answer) -> None:
        name = answer.picture.shown
        # A name that is no text, as names of files may be, as the escapes that Python reads back.
        text = json.dumps(name, ensure_ascii=not name.isprintable())
        line = f'{{"file":{text},{_json(answer, self._masks)[1:]}\n'.encode()
        if self._open is None:
            typer.echo(line, nl=False)
            return
        try:
            if self._file is None:
                self._file = self._open.__enter__()
            self._file.write(line)
        except OSError as error:
            raise FailedError(f"{self._target} cannot be written: {error.strerror}") from None

    def finish(self) -> None:
        if self._open is not None and self._file is not None:
            self._open.__exit__(None, None, None)


class Dataset:
    """One COCO dataset of all pictures that have a result; `file_name` is the picture's place, images count from 1."""

    def __init__(self, target: Path | None, labels: Sequence[str]) -> None:
        self._target = target
        self._labels = labels
        self._results: list[tuple[str, Result]] = []

    def add(self, answer: Answer) -> None:
        if isinstance(answer.found, Result):
            self._results.append((str(answer.picture.name), answer.found))

    def finish(self) -> None:
        if not self._results:
            return
        text = f"{json.dumps(coco_dataset(self._results, self._labels))}\n".encode()
        if self._target is None:
            typer.echo(text, nl=False)
        else:
            _write(self._target, text)


class Overlays:
    """The picture with its masks: a PNG for each, or one file of any format that its ending names."""

    def __init__(self, place: Place | None, only: Path | None = None) -> None:
        self._place = place
        self._only = only

    def add(self, answer: Answer) -> None:
        if isinstance(answer.found, Failure):
            return
        target = self._only
        if target is None:
            assert self._place is not None
            target = self._place.file(answer.picture, Form.OVERLAY)
        drawn = Image.fromarray(answer.found.overlay(decode(answer.image)))
        buffer = BytesIO()
        try:
            drawn.save(buffer, picture_format(target))
        except (OSError, ValueError) as error:  # a format that takes no colours
            raise FailedError(f"{target} cannot be written: {error}") from None
        _write(target, buffer.getvalue())

    def finish(self) -> None:
        pass


class MaskFiles:
    """A folder of PNGs for each picture. What an earlier answer left there goes; what is not ours stays."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def add(self, answer: Answer) -> None:
        if isinstance(answer.found, Failure) or answer.found.rles is None:
            return
        folder = self._place.file(answer.picture, Form.MASKS)
        names = mask_names(answer.found.labels)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.iterdir():
                if old.name not in names and is_mask_name(old.name):
                    old.unlink()
        except OSError as error:
            raise FailedError(f"{folder} cannot be written: {error.strerror}") from None
        for name, rle in zip(names, answer.found.rles, strict=True):
            _write(folder / name, png(rle))

    def finish(self) -> None:
        pass


def picture_format(target: Path) -> str:
    """PIL's format of a file's ending. Raises UsageError where it can write none."""
    Image.init()
    known = Image.EXTENSION.get(target.suffix.lower(), "")
    if known not in Image.SAVE:
        raise UsageError(f"cannot write the picture {target}: no format has that ending; take .png or .jpg")
    return known


def _json(answer: Answer, masks: AnswerForm) -> str:
    if isinstance(answer.found, Result):
        return "".join(answer.found.json_pieces(masks))
    failure = answer.found
    error = {"code": failure.code, "message": failure.message, "param": failure.param}
    return json.dumps({"error": error}, ensure_ascii=False, separators=(",", ":"))


def _write(target: Path, data: bytes) -> None:
    with replacing(target) as file:
        file.write(data)
