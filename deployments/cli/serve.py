"""`text2mask serve`: the HTTP service on this machine."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated

import typer

from deployments.cli.complaints import aside, readable_errors


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
    fused: Annotated[
        bool | None,
        typer.Option(
            help="All stages in one process: less memory and quicker answers on one machine or one GPU. --no-fused: "
            "three, whatever the file says."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting, as detector.max_batch_size=4; again for the next. Lists and mappings are JSON.",
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            envvar="TEXT2MASK_METRICS_PORT",
            help="Prometheus reads /metrics there, as does whoever reaches this machine. Unset: none.",
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Where no keys are set, let in everybody who reaches the address.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Say whether all settings and the file are right, and start nothing.")
    ] = False,
) -> None:
    """Start the HTTP service on this machine and keep it up until Ctrl-C."""
    with readable_errors():
        from deployments import config_file
        from deployments.launch import DEFAULT_HOST, running, with_auth

        file = config_file.ConfigFile() if config is None else config_file.read(config)
        given = {"host": host, "port": port}
        options = {**file.http_options, **{name: value for name, value in given.items() if value is not None}}
        args = {**file.args, **_named(settings or [])}
        if model:
            args["model"] = model
        if fused is not None:
            args["fused"] = fused
        if keys_file is not None:
            args = {**args, "auth.mode": "keys", "auth.keys_file": keys_file}
        if check:
            from deployments.app import build

            build(with_auth(args, options.get("host", DEFAULT_HOST), insecure=insecure), file.in_place)
            aside.print("Nothing is wrong with these settings.")
            return
        aside.print("Starting; the models warm up first.")
        with running(args, options, file.in_place, insecure=insecure, metrics_port=metrics_port) as url:
            aside.print(f"Ready: {url}/ in a browser, or POST {url}/v1/segment. Ctrl-C stops it.", highlight=False)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                aside.print("Stopping.")


def _named(settings: list[str]) -> dict[str, str]:
    """`NAME=VALUE` texts by name."""
    for one in settings:
        if "=" not in one:
            raise typer.BadParameter(f"{one!r} is not NAME=VALUE", param_hint="--set")
    return dict(one.split("=", 1) for one in settings)
