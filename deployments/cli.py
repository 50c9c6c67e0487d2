"""`text2mask`: predict, serve, keys, models, download. Each command loads only what it needs."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline import __version__
from pipeline.errors import StageError
from pipeline.models.registry import CHECKPOINTS, EMBEDDED, BundleError, find

app = typer.Typer(
    help="Words in, masks out: GroundingDINO finds what a text names, SAM masks it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys_app = typer.Typer(help="Keys for the HTTP service, which wants one from everybody.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
console = Console()
aside = Console(stderr=True)  # what is not the answer itself

_SERVE_ONLY = {"ray", "fastapi", "starlette", "yaml", "python_multipart"}

Threshold = Annotated[
    float | None, typer.Option(min=0, max=1, help="Higher finds less, and surer. Unset: the model's own.")
]


def main() -> None:
    """The console script's entry."""
    if os.environ.get("TEXT2MASK_PORT", "").startswith("tcp://"):
        del os.environ["TEXT2MASK_PORT"]  # Kubernetes means the address of a service called text2mask by it
    app()


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Show the version and leave.")] = False,
) -> None:
    if version:
        console.print(__version__, highlight=False)
        raise typer.Exit


@app.command()
def predict(
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JPEG, PNG or WebP.")],
    prompt: Annotated[str, typer.Argument(help='What to look for, separated by commas: "red circle, star".')],
    model: Annotated[
        str, typer.Option(help="`tiny` comes along; real photographs want detector+segmenter, such as swint+vit_b.")
    ] = "tiny",
    box_threshold: Threshold = None,
    text_threshold: Threshold = None,
    overlay: Annotated[Path | None, typer.Option(help="Also write the picture with its masks here.")] = None,
) -> None:
    """Segment one picture in this process, without a service, and print the answer as JSON."""
    with _readable_errors():
        from pipeline.text_to_mask import TextToMask

        result = TextToMask.from_pretrained(model).predict(
            image, prompt, box_threshold=box_threshold, text_threshold=text_threshold
        )
        print(json.dumps(result.to_json(), ensure_ascii=False))
        if overlay is not None:
            _write_overlay(image, result, overlay)


@app.command()
def serve(
    model: Annotated[
        str | None, typer.Option(help="One pair for each service: choosing it here keeps weights out of requests.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A Serve YAML such as configs/local.yaml: replicas, batch sizes, limits. Options here win."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(envvar="TEXT2MASK_HOST", help="127.0.0.1 unless set. Others want keys, or --insecure."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, envvar="TEXT2MASK_PORT", help="8000 unless set.")
    ] = None,
    keys_file: Annotated[
        Path | None,
        typer.Option(help="Ask for a key; its hash is in this list, which `text2mask keys new` adds to."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Where no keys are set, let in everybody who reaches the address.")
    ] = False,
) -> None:
    """Start the HTTP service on this machine and keep it up until Ctrl-C."""
    with _readable_errors():
        from deployments import config_file
        from deployments.launch import running

        file = config_file.ConfigFile() if config is None else config_file.read(config)
        given = {"host": host, "port": port}
        options = {**file.http_options, **{name: value for name, value in given.items() if value is not None}}
        args = {**file.args, "model": model} if model else file.args
        if keys_file is not None:
            args = {**args, "auth.mode": "keys", "auth.keys_file": keys_file}
        aside.print("Starting; the models warm up first.")
        with running(args, options, insecure=insecure) as url:
            aside.print(f"Ready: POST {url}/v1/segment. Ctrl-C stops it.", highlight=False)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                aside.print("Stopping.")


@keys_app.command("new")
def new_key(
    owner: Annotated[str, typer.Argument(help="Whose it is: images and limits belong to the owner, not to the key.")],
) -> None:
    """Make a key. Its hash, an entry for the settings, goes to standard output; the key itself to standard error, once.

    So `text2mask keys new alice >> keys.yaml` leaves the key on the screen and only the hash in the file: who reads
    the file cannot ask with it. Point the setting auth.keys_file at the file.
    """
    with _readable_errors():
        from deployments.keys import issue

        key, entry = issue(owner)
        print("-", entry.model_dump_json(exclude_unset=True))  # a line of a YAML list
        aside.print("The key; it is stored nowhere and not shown again:", highlight=False)
        aside.print(key, highlight=False, markup=False, soft_wrap=True)


@app.command()
def models() -> None:
    """List the models that have a name, and whether their weights are on this machine."""
    table = Table("name", "part", "weights", "licence")
    for kind, folder in EMBEDDED.items():
        table.add_row("tiny", kind, f"embedded, {folder}", "Apache-2.0")
    for known in CHECKPOINTS.values():
        path = find(known)
        where = str(path) if path is not None else f"not here; text2mask download {known.name}"
        table.add_row(known.name, known.kind, where, known.licence)
    console.print(table)


@app.command()
def download(
    model: Annotated[str, typer.Argument(help="swint, swinb, vit_b, vit_l, vit_h, or a pair such as swint+vit_b.")],
) -> None:
    """Fetch official weights: with progress, resumed after a break, verified against the published hash."""
    with _readable_errors():
        from pipeline.models.download import download as fetch

        for path in fetch(model, console=aside):
            console.print(str(path), soft_wrap=True, highlight=False)


def _write_overlay(image: Path, result: Any, target: Path) -> None:
    from PIL import Image

    from pipeline.image import decode

    picture = Image.fromarray(result.overlay(decode(image.read_bytes())))
    try:
        picture.save(target)
    except (OSError, ValueError) as error:  # no such folder; an ending that names no format
        raise typer.BadParameter(f"cannot write the picture: {error}", param_hint="--overlay") from None


@contextmanager
def _readable_errors() -> Iterator[None]:
    """What a person can put right is one line and status 1, without a traceback."""
    from deployments.launch import PortTakenError
    from deployments.settings import SettingsError

    try:
        yield
    except (StageError, BundleError, SettingsError, PortTakenError) as error:
        _complain(str(error))
        raise typer.Exit(1) from None
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "pipeline", "deployments"):  # a fault of ours, not of the installation
            raise
        extras = "local,serve" if package in _SERVE_ONLY else "local"
        _complain(f"{package} is not installed; pip install 'text2mask[{extras}]'")
        raise typer.Exit(1) from None


def _complain(text: str) -> None:
    aside.print(f"text2mask: {text}", style="red", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
