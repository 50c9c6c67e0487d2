"""What the arguments of `predict` mean together, and which of them exclude each other."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from deployments.cli.complaints import UsageError
from deployments.cli.inputs import STDIN, looks_like_a_picture
from deployments.cli.outputs import Form
from deployments.cli.query import read_prompt_file
from pipeline.formats.masks import AnswerForm
from pipeline.prompt import Prompt


def split(words: list[str], prompt_file: Path | None, *, listed: bool) -> tuple[list[str], Prompt]:
    """The pictures and the prompt among the arguments."""
    if prompt_file is not None:
        if not words and not listed:
            raise UsageError("no picture is named")
        return words, read_prompt_file(prompt_file)
    if not words:
        raise UsageError('no picture and no prompt: text2mask predict photo.jpg "car, wheel"')
    *images, prompt = words
    if looks_like_a_picture(prompt):
        raise UsageError(f'the last argument is what to look for, and {prompt} is a picture: add "car, wheel"')
    if not images and not listed:
        raise UsageError(f"no picture is named, or no prompt: {prompt!r} stands alone")
    return images, prompt


def listed(source: str | None, images: list[str]) -> list[str]:
    """The paths in a list of pictures; bytes that are no UTF-8 stay the names of their files."""
    if STDIN in images:
        if source == STDIN:
            raise UsageError("standard input is either one picture or --from-list, not both")
        if sys.stdin.isatty():
            raise UsageError("- is a picture on standard input, and that is the keyboard: use a pipe, or < photo.jpg")
    if source is None:
        return []
    try:
        text = sys.stdin.buffer.read() if source == STDIN else Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"--from-list {source} cannot be read: {error.strerror}") from None
    paths = [os.fsdecode(line) for line in text.splitlines() if line.strip()]
    if not paths and not images:
        raise UsageError(f"--from-list {source} names no picture")
    if any("\0" in path for path in paths):
        raise UsageError(f"--from-list {source} is no list of paths: one a line")
    return paths


def forms(given: list[Form] | None, out: Path | None, *, single: bool, masks: AnswerForm) -> tuple[Form, ...]:
    """What is written, each once."""
    forms = tuple(dict.fromkeys(given or (Form.JSON if out is not None or single else Form.JSONL,)))
    if masks == "none" and Form.MASKS in forms:
        raise UsageError("--format masks and --masks none exclude each other")
    if out is None:
        files = [one for one in forms if one in (Form.OVERLAY, Form.MASKS)]
        if files:
            raise UsageError(f"--format {files[0]} writes files: say where with --out DIR")
        if len(forms) > 1:
            raise UsageError("several forms are files: say where with --out DIR")
        if forms == (Form.JSON,) and not single:
            raise UsageError("--format json is for one picture or --out DIR; many at once are --format jsonl")
    return forms


def check_sides(server: str | None, *, device: str | None, **of_service: object) -> None:
    """Refuses options of a service without one, and those of this process with one."""
    if server is None:
        idle = [name for name, value in of_service.items() if value is not None]
        if idle:
            raise UsageError(f"--{idle[0]} is for --server URL")
    elif device is not None:
        raise UsageError("--device is of this process; the service has its own")
