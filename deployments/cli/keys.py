"""`text2mask keys`: who may ask the service."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.cli.complaints import aside, readable_errors

app = typer.Typer(help="Keys for the HTTP service, which wants one from everybody.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command("new")
def new_key(
    owner: Annotated[str, typer.Argument(help="Whose it is: images and limits belong to the owner, not to the key.")],
) -> None:
    """Make a key. Its hash, an entry for the settings, goes to standard output; the key itself to standard error, once.

    So `text2mask keys new alice >> keys.yaml` leaves the key on the screen and only the hash in the file: who reads
    the file cannot ask with it. Point the setting auth.keys_file at the file.
    """
    with readable_errors():
        from deployments.keys import issue

        key, entry = issue(owner)
        print("-", entry.model_dump_json(exclude_unset=True))  # a line of a YAML list
        aside.print("The key; it is stored nowhere and not shown again:", highlight=False)
        aside.print(key, highlight=False, markup=False, soft_wrap=True)
