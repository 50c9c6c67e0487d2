"""How a wrong name of a setting is told."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class SettingsError(ValueError):
    """A setting that a person can put right; the text says which and how."""


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The one of `known` that `name` was perhaps meant to be."""
    near = difflib.get_close_matches(name, known, n=1)
    return near[0] if near else None


def unknown(name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    hint = f"did you mean {near}?" if near else f"known here: {', '.join(known)}"
    return f"there is no such setting; {hint}"
