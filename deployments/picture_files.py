"""Which files are pictures, by their names, and which of them a folder or a pattern means: for commands and for jobs.

Hidden names are left out. A folder and `**` do not follow links to folders, so a tree is walked once and not left; in a
folder, a link to a file counts where that file lies in the tree. What a pattern names is taken as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp")
KINDS = "JPEG, PNG or WebP"
_SIGNS = "*?["


class UnreadableFolderError(ValueError):
    """A folder may not be read: nothing is left out in silence."""


def is_picture(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def is_pattern(text: str) -> bool:
    return any(sign in text for sign in _SIGNS)


def walk(
    folder: str, recursive: bool, apart: Path | None = None, wanted: Callable[[str], bool] = is_picture
) -> Iterator[str]:
    """The pictures in a folder, or what else is wanted, by name; `apart` is a folder that is left out."""
    for entry in _entries(folder, apart):
        if _is_hidden(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            if recursive:
                yield from walk(entry.path, recursive, apart, wanted)
        elif wanted(entry.name) and entry.is_file():
            yield entry.path


def of_the_tree(path: str, folder: str) -> bool:
    """Whether a file of a folder lies in it, or links to one that does."""
    return not os.path.islink(path) or Path(path).resolve().is_relative_to(Path(folder).resolve())


def split_pattern(pattern: str) -> tuple[str, list[str]]:
    """The folder before the first part that is a pattern, and the parts from there on."""
    parts = pattern.split("/")
    first = next(number for number, part in enumerate(parts) if is_pattern(part))
    root = "/".join(parts[:first]) or ("/" if pattern.startswith("/") else "")
    rest = [part for part in parts[first:] if part not in ("", ".")]
    return root, [*rest, "*"] if rest[-1] == "**" else rest


def matches(folder: str, parts: Sequence[str], apart: Path | None = None) -> Iterator[str]:
    """The files below `folder` that the parts of a pattern match, as a shell would with `**` switched on."""
    head, rest = parts[0], parts[1:]
    if head == "**":
        yield from matches(folder, rest, apart)
        for entry in _entries(folder, apart):
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from matches(os.path.join(folder, entry.name), parts, apart)
        return
    if head == "..":
        yield from matches(os.path.join(folder, head), rest, apart)
        return
    for entry in _entries(folder, apart):
        if not _fits(entry.name, head):
            continue
        if rest and entry.is_dir():
            yield from matches(os.path.join(folder, entry.name), rest, apart)
        elif not rest and entry.is_file():
            yield os.path.join(folder, entry.name)  # not its path: that of ./a.jpg would begin with a dot


def is_matched(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether the names of a key match the parts of a pattern, as `matches` has it for files."""
    if not parts or not names:
        return not parts and not names
    if parts[0] != "**":
        return _fits(names[0], parts[0]) and is_matched(names[1:], parts[1:])
    return is_matched(names, parts[1:]) or (not _is_hidden(names[0]) and is_matched(names[1:], parts))


def is_visible(names: Sequence[str]) -> bool:
    return not any(_is_hidden(name) for name in names)


def _fits(name: str, part: str) -> bool:
    return fnmatchcase(name, part) and (part.startswith(".") or not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    """In a key `.` and `..` are names like others, and none that anybody hides."""
    return name.startswith(".") and name not in (".", "..")


def _entries(folder: str, apart: Path | None) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name."""
    if apart is not None and Path(folder or ".").resolve().is_relative_to(apart):
        return []
    try:
        with os.scandir(folder or ".") as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UnreadableFolderError(f"the folder {folder} cannot be read: {error.strerror}") from None
    return found
