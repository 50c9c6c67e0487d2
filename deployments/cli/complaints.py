"""What a person can put right is told in one line, without a traceback; and where the words go.

Standard output has answers only. Everything else goes to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

console = Console()
aside = Console(stderr=True)  # what is not the answer itself

FAILED, USAGE, INTERRUPTED = 1, 2, 130

_SERVE_ONLY = {"ray", "fastapi", "starlette", "yaml", "python_multipart"}
_JOBS_ONLY = {"pyarrow", "faster_coco_eval"}


class UsageError(ValueError):
    """The command cannot be meant as it was typed; found before any model is loaded or anything is written."""


class FailedError(RuntimeError):
    """The command was right and cannot be carried out."""


@contextmanager
def readable_errors() -> Iterator[None]:
    """Ends the command with a line and a status: 2 for `UsageError`, 1 for what else a person can put right."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "pipeline", "deployments"):  # a fault of ours, not of the installation
            raise
        extras = "local,serve" if package in _SERVE_ONLY else "local,serve,jobs" if package in _JOBS_ONLY else "local"
        complain(f"{package} is not installed; pip install 'text2mask[{extras}]'")
        raise typer.Exit(FAILED) from None
    except Exception as error:
        if not isinstance(error, _told()):
            raise
        complain(str(error))
        raise typer.Exit(USAGE if isinstance(error, UsageError) else FAILED) from None


def _told() -> tuple[type[Exception], ...]:
    """Looked up in need: most commands do without these modules, and those that failed have loaded their own."""
    from pipeline.errors import StageError
    from pipeline.models.registry import BundleError

    elsewhere = (
        ("deployments.launch", "PortTakenError"),
        ("deployments.settings", "SettingsError"),
        ("deployments.client", "ClientError"),
        ("deployments.jobs.inputs", "InputError"),
        ("deployments.jobs.manifest", "OutputError"),
        ("deployments.jobs.errors", "JobError"),
        ("deployments.jobs.storage", "StorageError"),
    )
    loaded = (getattr(sys.modules[module], name) for module, name in elsewhere if module in sys.modules)
    return (UsageError, FailedError, StageError, BundleError, *loaded)


def complain(text: str) -> None:
    say(text, style="red")


def say(text: str, style: str | None = None) -> None:
    """A line on standard error that names the program. Control characters, as in names of files, are spelled out."""
    aside.print(f"text2mask: {printable(text)}", style=style, highlight=False, markup=False, soft_wrap=True)


def printable(text: str) -> str:
    """The text with `\\x1b` for an escape, `\\udce9` for half a letter: a name must not drive the terminal."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
