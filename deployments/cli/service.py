"""Asking a service instead of this process: the options for it, and the connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.complaints import UsageError
from pipeline.models.registry import unknown_name

if TYPE_CHECKING:
    from deployments.client import Client

PANEL = "Where it runs"
KEY_VARIABLE = "TEXT2MASK_KEY"

Server = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        rich_help_panel=PANEL,
        help="Ask this service, such as http://127.0.0.1:8000, instead of loading models here: the answers are the "
        "same, nothing but the base install is needed, and its GPU does the work.",
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=PANEL,
        help=f"For a service that wants one. Better in the variable {KEY_VARIABLE}: what is typed stays in the "
        "shell's history, and every user of the machine sees it in the list of processes.",
    ),
]


def connected(server: str, key: str | None, timeout_s: float = 60.0) -> Client:
    """A client; without `key` it takes the one in `TEXT2MASK_KEY`. Nothing is sent yet.

    Raises:
        UsageError: the address or the key cannot be one.
    """
    from deployments.client import Client

    if not server.startswith(("http://", "https://")):
        raise UsageError(f"--server {server!r} is no address; it begins with http:// or https://")
    try:
        return Client(server, key=key, timeout_s=timeout_s, reuse_ids=False)  # each picture is sent once
    except ValueError as error:
        raise UsageError(f"--server: {error}") from None


def unknown_model(client: Client, model: str) -> str:
    """What to say of a model that a service does not have."""
    known = [name for row in client.models() for name in (row["name"], *row.get("aliases", ()))]
    return f"the service has no model {model!r}; {unknown_name(model, known)}it has {', '.join(known)}"
