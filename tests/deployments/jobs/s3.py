"""An S3 service over the wire for tests: moto's, in a thread, and a front before it that spoils some requests."""

from __future__ import annotations

import http.client
import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest

from deployments.jobs.storage import StorageOptions

ACCOUNT = "123456789012"  # moto's only one
KEYS = {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anything"}
Fault = Literal["500", "503", "cut", "silence"] | None
_names = itertools.count()


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket, filled from below and read over the wire."""

    name: str
    endpoint: str

    @property
    def uri(self) -> str:
        return f"s3://{self.name}"

    def options(self, **others: Any) -> StorageOptions:
        return StorageOptions(**({"endpoint_url": self.endpoint} | others))

    def put(self, key: str, data: bytes = b"") -> None:
        from moto.s3.models import s3_backends

        s3_backends[ACCOUNT]["aws"].put_object(self.name, key, data)

    def client(self) -> Any:
        """boto3's, as the independent judge."""
        import boto3

        return boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Where moto's S3 listens: as its own server has it, without the one that tells AWS's services apart."""
    from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, create_backend_app("s3"), threaded=True, request_handler=MotoRequestHandler)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    serving.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.fixture
def s3_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that moto takes, and none of the machine's owner."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(s3_endpoint: str, s3_environment: None) -> Bucket:
    """A new, empty one."""
    from moto.s3.models import s3_backends

    name = f"bucket-{next(_names)}"
    s3_backends[ACCOUNT]["aws"].create_bucket(name, "us-east-1")
    return Bucket(name, s3_endpoint)


@contextmanager
def checked_credentials(policy: list[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """While it lasts, moto checks signatures and rights. Gives the environment of the one user, with this policy."""
    import moto.settings
    from moto.iam.models import iam_backends

    iam = iam_backends[ACCOUNT]["aws"]
    name = f"user-{next(_names)}"
    iam.create_user("us-east-1", name)
    iam.put_user_policy(name, "rights", json.dumps({"Version": "2012-10-17", "Statement": policy}))
    key = iam.create_access_key(name)
    before = moto.settings.INITIAL_NO_AUTH_ACTION_COUNT
    moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    try:
        yield {"AWS_ACCESS_KEY_ID": key.access_key_id, "AWS_SECRET_ACCESS_KEY": key.secret_access_key}
    finally:
        moto.settings.INITIAL_NO_AUTH_ACTION_COUNT = before


class Front:
    """Passes requests on, and spoils those that it is told to.

    Args:
        behind: the endpoint of the service.
        spoil: the number of a request, from 1, to what becomes of it.

    Attributes:
        endpoint: where it listens.
        asked: method and path of each request.
        spoilt: how many it spoilt.
    """

    def __init__(self, behind: str, spoil: Callable[[int], Fault] = lambda number: None) -> None:
        self.asked: list[tuple[str, str]] = []
        self.spoilt = 0
        self.over = threading.Event()
        self._spoil = spoil
        self._lock = threading.Lock()
        front = self

        class Handler(_Handler):
            address = urlsplit(behind).netloc

            def answer(self) -> None:
                fault = front._next(self.command, self.path)
                if fault == "silence":
                    front.over.wait(30)
                if fault in ("silence", "cut"):
                    self.close_connection = True
                elif fault is not None:
                    self.refuse(int(fault))
                else:
                    self.forward()

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815  # the names that http.server looks for

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _next(self, method: str, path: str) -> Fault:
        with self._lock:
            self.asked.append((method, path))
            fault = self._spoil(len(self.asked))
            self.spoilt += fault is not None
            return fault

    def __enter__(self) -> Front:
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    address = ""

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def body(self) -> bytes:
        """Of the request; the AWS SDK sends its uploads in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while length := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def refuse(self, status: int) -> None:
        self.body()
        body = b"<Error><Code>SlowDown</Code><Message>a text of the store's</Message></Error>" if status == 503 else b""
        self._send(status, [("Content-Type", "application/xml")], body, len(body))

    def forward(self) -> None:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("transfer-encoding", "expect")}
        connection = http.client.HTTPConnection(self.address)
        connection.request(self.command, self.path, self.body() or None, headers)
        response = connection.getresponse()
        data = response.read()
        kept = [(k, v) for k, v in response.getheaders() if k.lower() not in ("connection", "content-length", "date")]
        length = int(response.headers.get("Content-Length", len(data)))
        connection.close()
        self._send(response.status, kept, data, length)

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int) -> None:
        self.send_response(status)
        for name, value in [*headers, ("Content-Length", str(length))]:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
