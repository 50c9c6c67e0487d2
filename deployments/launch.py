"""Ray and Serve on this machine alone, for `text2mask serve` and the demo."""

from __future__ import annotations

import importlib
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from deployments.observe_settings import TracingSettings
from deployments.settings import SettingsError, from_args

APP_NAME = "text2mask"
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
OBJECT_STORE_BYTES = 512 * 2**20  # encoded images and embeddings under way; fits the 1 GB /dev/shm of many machines

# Of Serve's processes. One event loop in each replica for its calls, ours and Serve's own work, instead of three in
# threads that wait for each other: nothing of ours holds it, and Serve has no other way to say so.
_SERVE = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.proxy_layers.layers",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    # Seconds; a proxy that has died is replaced after three misses: 5 s without an answer instead of 29. A check that
    # only takes long has its ten seconds all the same.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
}


class PortTakenError(OSError):
    """Somebody else listens there."""


@contextmanager
def running(
    args: Mapping[str, Any],
    http_options: Mapping[str, Any],
    in_place: Mapping[str, Any] | None = None,
    *,
    insecure: bool = False,
    metrics_port: int | None = None,
) -> Iterator[str]:
    """The app of `args` and `in_place` (see `app.build`) while the block lasts; gives its base URL.

    It is warm when the block begins. When the block ends, also by an exception, Ctrl-C or SIGTERM, everything that was
    started is stopped. Nothing is reported to anyone: Ray's usage statistics are switched off. Who is asked for a key,
    `with_auth` decides. Without `metrics_port` no metrics are collected; with it, whoever reaches the machine reads
    them there, for Ray opens it on all addresses.

    Raises:
        PortTakenError, SettingsError, BundleError: nothing was started. RuntimeError: a stage did not come up.
    """
    options = {"host": DEFAULT_HOST, "port": DEFAULT_PORT, **http_options}
    check_port(options["host"], options["port"])
    if metrics_port is not None:
        if metrics_port == options["port"]:
            raise SettingsError(f"port {metrics_port} cannot be the service's and that of the metrics")
        check_port("0.0.0.0", metrics_port)
    args = with_auth(args, options["host"], insecure=insecure)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before ray is imported: it is read then
    # Replicas log to /tmp/ray/session_latest/logs/serve; here only what goes wrong is of interest.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    import ray
    from ray import serve

    from deployments.app import build

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    settings = from_args(args)
    _check_exporter(settings.tracing)
    app = build(args, in_place or {})  # before anything is started: most mistakes show here
    try:
        # A Ray of its own ("local"), even where another one runs: for that there is `serve deploy`.
        with _sigint_later(), _environment({**_SERVE, **settings.tracing.environment()}):
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _metrics_export_port=metrics_port,
                # Ray would choose a port by itself, and listen there on all addresses.
                _system_config={"enable_metrics_collection": metrics_port is not None},
            )
        with _sigterm_as_exit():  # after ray.init, which sets a handler that ends the process on the spot
            serve.start(http_options=options, logging_config=settings.logging.of_serve())
            try:
                serve.run(app, name=APP_NAME, route_prefix="/")
                yield f"http://{_in_url(options['host'])}:{options['port']}"
            finally:
                serve.delete(APP_NAME)  # lets running requests finish
    finally:
        ray.shutdown()


def with_auth(args: Mapping[str, Any], host: str, *, insecure: bool = False) -> dict[str, Any]:
    """`args` for an app that listens on `host`.

    On a loopback address, and anywhere if `insecure`, nobody is asked for a key unless something was said about `auth`.

    Raises:
        SettingsError: everybody who reaches `host` could ask, and nobody said that this is meant.
    """
    settings = from_args(args)
    trusted = insecure or is_loopback(host)
    if trusted and "auth" not in settings.model_fields_set:
        return {**args, "auth.mode": "none"}
    auth = settings.auth
    if not trusted and (auth.mode == "none" or not (auth.keys or auth.keys_file)):
        raise SettingsError(
            f"others reach {host}: make a key with `text2mask keys new OWNER >> keys.yaml` and ask for it with "
            "--keys-file keys.yaml (the setting auth.keys_file), or let everybody in with --insecure"
        )
    return dict(args)


def _check_exporter(tracing: TracingSettings) -> None:
    """Raise SettingsError for one that is not there: Serve would end in a traceback."""
    module, _, function = tracing.exporter.partition(":")
    if not tracing.enabled:
        return
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ImportError as error:
        raise SettingsError(f"tracing.exporter: {module} cannot be imported: {error}") from None
    if not callable(found):
        raise SettingsError(f"tracing.exporter: {module} has no function {function}")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`, an address or `localhost`. Other names may mean anything: no."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def free_port() -> int:
    """One on which nothing listens at this moment: for a service beside others, such as that of a test."""
    with socket.create_server((DEFAULT_HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Raise PortTakenError if nothing could listen there. Serve itself shares a taken port without a word."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just stopped is no obstacle
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTakenError(f"cannot listen on {host}:{port}: {error.strerror}") from None


def _in_url(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """`values` for the processes that start in the block, where nothing else was said."""
    missing = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """SIGTERM unwinds the stack, so that what was started is stopped."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _sigint_later() -> Iterator[None]:
    """Ctrl-C takes effect at the end of the block: in the middle of `ray.init` it crashes the process."""
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
