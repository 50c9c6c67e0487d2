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
        bool,
        typer.Option(
            "--fused", help="All stages in one process: less memory and quicker answers on one machine or one GPU."
        ),
    ] = False,
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
) -> None:
    """Start the HTTP service on this machine and keep it up until Ctrl-C."""
    with readable_errors():
        from deployments import config_file
        from deployments.launch import running

        file = config_file.ConfigFile() if config is None else config_file.read(config)
        given = {"host": host, "port": port}
        options = {**file.http_options, **{name: value for name, value in given.items() if value is not None}}
        args = {**file.args, "model": model} if model else file.args
        if fused:
            args = {**args, "fused": True}
        if keys_file is not None:
            args = {**args, "auth.mode": "keys", "auth.keys_file": keys_file}
        aside.print("Starting; the models warm up first.")
        with running(args, options, insecure=insecure, metrics_port=metrics_port) as url:
            aside.print(f"Ready: {url}/ in a browser, or POST {url}/v1/segment. Ctrl-C stops it.", highlight=False)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                aside.print("Stopping.")
