"""nginx with configs/nginx.conf, without root, in front of a small server of this process; and clients for it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.launch import free_port
from tests.deployments.fakes import base64
from tests.deployments.service import PICTURE, refusal

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "nginx.conf"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt-get install nginx)")
BODY = {"image": base64(PICTURE), "prompt": "car, wheel"}
MB = 1_000_000
PATIENCE_S = 20.0  # for what must come; nothing waits that long when all is well
HEADER_S = BODY_S = 1.0


@dataclass
class Upstream:
    """What stands for Serve: the application, and what reached it."""

    app: ASGIApp
    port: int = 0
    requests: list[tuple[str, str, list[tuple[str, str]]]] = field(default_factory=list)
    """Method, path and headers of each."""
    bodies: list[bytes] = field(default_factory=list)
    """What was answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
        self.requests.append((scope["method"], scope["raw_path"].decode(), headers))
        number = len(self.bodies)
        self.bodies.append(b"")

        async def sending(message: Message) -> None:
            self.bodies[number] += message.get("body", b"")
            if message["type"] == "http.response.start":  # as Serve does it
                message = {**message, "headers": [*message["headers"], (b"x-request-id", b"of Serve's proxy")]}
            await send(message)

        await self.app(scope, receive, sending)


@contextmanager
def serving(upstream: Upstream) -> Iterator[Upstream]:
    """`upstream` on a port of its own, on a thread of its own."""
    server = uvicorn.Server(uvicorn.Config(upstream, lifespan="off", log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening:  # from here on it accepts, if not at once
        upstream.port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield upstream
        finally:
            server.should_exit = True
            thread.join()


def configured(folder: Path, upstream_port: int, changes: dict[str, str] | None = None) -> tuple[Path, int]:
    """The shipped configuration with `folder`, ports and shorter times in it, and the port that it listens on."""
    port = free_port()
    text = CONFIG.read_text()
    for before, after in {
        "/run/nginx.pid": f"{folder}/pid",
        "/var/lib/nginx/": f"{folder}/",
        "/var/log/nginx/": f"{folder}/",
        "server 127.0.0.1:8000": f"server 127.0.0.1:{upstream_port}",
        "listen 127.0.0.1:8080": f"listen 127.0.0.1:{port}",
        "client_header_timeout 10s": f"client_header_timeout {HEADER_S:.0f}s",
        "client_body_timeout 20s": f"client_body_timeout {BODY_S:.0f}s",
        "worker_processes auto": "worker_processes 1",
        **(changes or {}),
    }.items():
        assert before in text, before
        text = text.replace(before, after)
    config = folder / "nginx.conf"
    config.write_text(text)
    return config, port


@contextmanager
def nginx(upstream_port: int, changes: dict[str, str] | None = None) -> Iterator[int]:
    """nginx in front of the port, under a user without rights; gives its own port."""
    with folder_of_nobody() as (folder, rights):
        config, port = configured(folder, upstream_port, changes)
        assert NGINX
        process = subprocess.Popen(
            [NGINX, "-c", str(config), "-e", "stderr", "-g", "daemon off;"], stderr=subprocess.PIPE, **rights
        )
        try:
            wait_for(port, process)
            yield port
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_S)


@contextmanager
def folder_of_nobody() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder, and the arguments with which a process runs as its owner: `nobody` where the tests run as root."""
    with tempfile.TemporaryDirectory(prefix="front-") as name:  # pytest's own folders are closed to others
        rights: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(name, nobody.pw_uid, nobody.pw_gid)
            rights = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        yield Path(name), rights


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.01)
    process.terminate()
    raise AssertionError(process.communicate()[1].decode())


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def read_all(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    return b"".join(iter(lambda: connection.recv(2**16), b""))


def parts(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (names in lower case) and body of a whole answer."""
    top, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    status = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", first)
    assert status, first
    headers = dict(line.split(": ", 1) for line in lines)
    return int(status[1]), {name.lower(): value for name, value in headers.items()}, body


def refused(answer: bytes, status: int, code: str) -> None:
    got, headers, body = parts(answer)
    refusal(httpx.Response(got, headers=headers, content=body), status, code)
    assert headers["x-request-id"]


def head(*fields: str, path: str = "/v1/segment", method: str = "POST") -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "Host: a", "Connection: close", *fields)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
