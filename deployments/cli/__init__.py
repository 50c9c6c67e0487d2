"""`text2mask`: one module for each group of commands. Each command loads only what it needs."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from deployments.cli import batch, evaluate, export, keys, predict, serve, weights
from deployments.cli.complaints import console
from pipeline import __version__

_TOLD = ("torch", "ray")  # whose versions a report of a fault needs besides ours

app = typer.Typer(
    help="Words in, masks out: GroundingDINO finds what a text names, SAM masks it.",
    epilog="Exit codes: 0 all is well, 1 something failed, 2 the command is wrong, 130 interrupted by Ctrl-C.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command(epilog=predict.EPILOG)(predict.predict)
app.command()(serve.serve)
app.command(epilog=batch.EPILOG)(batch.batch)
app.command(epilog=export.EPILOG)(export.export)
app.command("eval", epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command()(weights.models)
app.command()(weights.download)
app.add_typer(keys.app, name="keys")


def main() -> None:
    """The console script's entry."""
    for name in ("TEXT2MASK_PORT", "TEXT2MASK_METRICS_PORT"):
        if os.environ.get(name, "").startswith("tcp://"):
            del os.environ[name]  # Kubernetes means the address of a service called text2mask, or text2mask-metrics
    app(prog_name="text2mask")


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Show the version, and torch's and ray's where installed.")
    ] = False,
) -> None:
    if show_version:
        console.print(__version__, highlight=False)
        for package in _TOLD:
            try:
                console.print(f"{package} {version(package)}", highlight=False)
            except PackageNotFoundError:
                console.print(f"{package} not installed", highlight=False)
        raise typer.Exit
