"""Which pictures a command means: files, folders, patterns, lists, standard input.

A folder gives its files that end as JPEG, PNG or WebP files do. In folders and patterns hidden names are left out. A
folder and `**` do not follow links to folders, so a tree is walked once and not left; in a folder, a link to a file
counts where that file lies in the tree. What is named outright, or by a pattern, is taken as it is. The order is that
of the command, sorted within each folder and pattern, and a file that is meant twice comes once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deployments.cli.complaints import UsageError
from deployments.picture_files import (
    KINDS,
    UnreadableFolderError,
    is_pattern,
    is_picture,
    matches,
    of_the_tree,
    split_pattern,
    walk,
)

STDIN = "-"


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture to be looked at.

    Attributes:
        shown: what answers call it: the path as the command has it, or `-`.
        name: its place below the deepest folder that holds all that was named; what is written about it lies likewise.
        path: the file; None for standard input.
    """

    shown: str
    name: PurePosixPath
    path: Path | None


def find_pictures(
    named: Sequence[str], listed: Sequence[str] = (), *, recursive: bool = False, apart: Path | None = None
) -> list[Picture]:
    """All pictures of a command.

    Args:
        named: files, folders, patterns and `-`.
        listed: more files, which need not be there: the lack of one is told like any picture that cannot be read.
        recursive: take the folders in a folder too.
        apart: a folder of outputs, in which folders and patterns find no pictures.

    Raises:
        UsageError: nothing is there, or no picture is in it.
    """
    apart = None if apart is None else apart.resolve()
    roots: list[str] = []
    paths: dict[str, str] = {}  # by where they really lie
    for text in named:
        if text == STDIN:
            found, root = [STDIN], None
        else:
            try:
                found, root = _meant(text, recursive, apart)
            except UnreadableFolderError as error:
                raise UsageError(str(error)) from None
        roots += [] if root is None else [os.path.abspath(root)]
        for path in found:
            paths.setdefault(STDIN if path == STDIN else os.path.realpath(path), path)
    for path in listed:
        roots.append(os.path.dirname(os.path.abspath(path)))
        paths.setdefault(os.path.realpath(path), path)
    root = os.path.commonpath(roots) if roots else ""
    return [_picture(path, root) for path in paths.values()]


def looks_like_a_picture(text: str) -> bool:
    """Whether a text is the path of a picture that is there, and no words to look for."""
    return is_picture(text) and os.path.exists(text)


def _picture(path: str, root: str) -> Picture:
    if path == STDIN:
        return Picture(STDIN, PurePosixPath("stdin"), None)
    name = os.path.relpath(os.path.abspath(path), root)
    return Picture(path, PurePosixPath(Path(name).as_posix()), Path(path))


def _meant(text: str, recursive: bool, apart: Path | None) -> tuple[list[str], str]:
    """The paths that one argument means, and the folder below which it does."""
    if os.path.isdir(text):
        found = [path for path in walk(text, recursive, apart) if of_the_tree(path, text)]
        if not found:
            deeper = "" if recursive else " itself; --recursive looks into its folders, too"
            raise UsageError(f"the folder {text} has no {KINDS} in it{deeper}")
        return found, text
    if os.path.exists(text):
        return [text], os.path.dirname(os.path.abspath(text))
    if is_pattern(text) and not os.path.lexists(text):
        root, parts = split_pattern(text)
        found = list(dict.fromkeys(path for path in matches(root, parts, apart) if is_picture(path)))
        if not found:
            raise UsageError(f"the pattern {text} matches no {KINDS}")
        return found, root or "."
    if text.lower().startswith(("http://", "https://")):
        raise UsageError(f"{text} is not fetched here; try: curl -L {text} | text2mask predict - PROMPT")
    raise UsageError(f"there is no file or folder {text!r}")
