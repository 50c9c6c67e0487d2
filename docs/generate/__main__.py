"""`python -m docs.generate`: write every page of docs/reference/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from docs.generate import command_line, http, python, settings

FOLDER = Path(__file__).parents[1] / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "http.md": http.page,
    "settings.md": settings.page,
    "python.md": python.page,
    "command-line.md": command_line.page,
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
