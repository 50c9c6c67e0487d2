"""Which pictures a command means: files, folders, patterns, lists, standard input.

A folder gives its files that end as JPEG, PNG or WebP files do. In folders and patterns hidden names are left out. A
folder and `**` do not follow links to folders, so a tree is walked once and not left; in a folder, a link to a file
counts where that file lies in the tree. What is named outright, or by a pattern, is taken as it is. The order is that
of the command, sorted within each folder and pattern, and a file that is meant twice comes once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from deployments.cli.complaints import UsageError

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
STDIN = "-"
_KINDS = "JPEG, PNG or WebP"


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
            found, root = _meant(text, recursive, apart)
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
    return text.lower().endswith(ENDINGS) and os.path.exists(text)


def _picture(path: str, root: str) -> Picture:
    if path == STDIN:
        return Picture(STDIN, PurePosixPath("stdin"), None)
    name = os.path.relpath(os.path.abspath(path), root)
    return Picture(path, PurePosixPath(Path(name).as_posix()), Path(path))


def _meant(text: str, recursive: bool, apart: Path | None) -> tuple[list[str], str]:
    """The paths that one argument means, and the folder below which it does."""
    if os.path.isdir(text):
        found = [path for path in _walk(text, recursive, apart) if _of_the_tree(path, text)]
        if not found:
            deeper = "" if recursive else " itself; --recursive looks into its folders, too"
            raise UsageError(f"the folder {text} has no {_KINDS} in it{deeper}")
        return found, text
    if os.path.exists(text):
        return [text], os.path.dirname(os.path.abspath(text))
    if any(sign in text for sign in "*?[") and not os.path.lexists(text):
        root, parts = _split(text)
        found = list(dict.fromkeys(path for path in _matches(root, parts, apart) if path.lower().endswith(ENDINGS)))
        if not found:
            raise UsageError(f"the pattern {text} matches no {_KINDS}")
        return found, root or "."
    if text.lower().startswith(("http://", "https://")):
        raise UsageError(f"{text} is not fetched here; try: curl -L {text} | text2mask predict - PROMPT")
    raise UsageError(f"there is no file or folder {text!r}")


def _walk(folder: str, recursive: bool, apart: Path | None) -> Iterator[str]:
    for entry in _entries(folder, apart):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if recursive:
                yield from _walk(entry.path, recursive, apart)
        elif entry.name.lower().endswith(ENDINGS) and entry.is_file():
            yield entry.path


def _of_the_tree(path: str, folder: str) -> bool:
    return not os.path.islink(path) or Path(path).resolve().is_relative_to(Path(folder).resolve())


def _split(pattern: str) -> tuple[str, list[str]]:
    """The folder before the first part that is a pattern, and the parts from there on."""
    parts = pattern.split("/")
    first = next(number for number, part in enumerate(parts) if any(sign in part for sign in "*?["))
    root = "/".join(parts[:first]) or ("/" if pattern.startswith("/") else "")
    rest = [part for part in parts[first:] if part not in ("", ".")]
    return root, [*rest, "*"] if rest[-1] == "**" else rest


def _matches(folder: str, parts: Sequence[str], apart: Path | None) -> Iterator[str]:
    """The files below `folder` that the parts of a pattern match, as a shell would with `**` switched on."""
    head, rest = parts[0], parts[1:]
    if head == "**":
        yield from _matches(folder, rest, apart)
        for entry in _entries(folder, apart):
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _matches(os.path.join(folder, entry.name), parts, apart)
        return
    if head == "..":
        yield from _matches(os.path.join(folder, head), rest, apart)
        return
    for entry in _entries(folder, apart):
        if entry.name.startswith(".") and not head.startswith("."):
            continue
        if not fnmatchcase(entry.name, head):
            continue
        if rest and entry.is_dir():
            yield from _matches(os.path.join(folder, entry.name), rest, apart)
        elif not rest and entry.is_file():
            yield os.path.join(folder, entry.name)  # not its path: that of ./a.jpg would begin with a dot


def _entries(folder: str, apart: Path | None) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name. Raises UsageError where it may not be read: nothing is left out in silence."""
    if apart is not None and Path(folder or ".").resolve().is_relative_to(apart):
        return []
    try:
        with os.scandir(folder or ".") as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be read: {error.strerror}") from None
    return found
