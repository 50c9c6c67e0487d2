"""A real TLS server on this machine, and an internet around it: names that it answers to, addresses that lead to it."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpcore
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deployments.fetch import Fetcher, FetchError
from deployments.fetch_settings import FetchSettings

HOST = "images.example.com"
CDN = "*.cdn.example.com"
PUBLIC = "93.184.215.14"
URL = f"https://{HOST}/a.png"
BODY = b"\x89PNG, or so it seems"
ALLOWED = {"enabled": True, "allowed_hosts": (HOST, CDN)}

Page = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What the server answers: these bytes, or whatever the function does with the connection."""


@cache
def certificate() -> bytes:
    """A new key and a certificate for `HOST` and `CDN`, PEM, that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST), x509.DNSName(CDN)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + signed.public_bytes(serialization.Encoding.PEM)


def trusting() -> ssl.SSLContext:
    """A client's context that trusts `certificate()` and nothing else."""
    text = certificate().decode()
    return ssl.create_default_context(cadata=text[text.index("-----BEGIN CERTIFICATE") :])


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """An HTTP answer that says its length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(*locations: str, status: str = "302 Found") -> bytes:
    return answer(b"", *(f"Location: {location}" for location in locations), status=status)


class Names:
    """A resolver. Each name has one list of addresses for each look-up; the last is for all further ones."""

    def __init__(self, names: Mapping[str, Iterable[Sequence[str]]]) -> None:
        self._answers = {name: list(answers) for name, answers in names.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        answers = self._answers.get(host)
        if not answers:
            raise OSError("no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]


class Wires(httpcore.AsyncNetworkBackend):
    """Whatever address is dialled, the server on `port` of this machine answers. What was dialled is written down."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.dialled: list[tuple[str, int]] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.dialled.append((host, port))
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self.port)


@dataclass
class Server:
    """What the server saw.

    Attributes:
        pages: by path; what is not there is a 404.
        heads: of the requests, as they came.
        names: that TLS handshakes asked for.
        hung_up: set when a client has closed a connection that a page was still busy with.
    """

    pages: Mapping[str, Page]
    heads: list[str] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    async def respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            page = self.pages.get(head.split(" ")[1], answer(b"", status="404 Not Found"))
            if isinstance(page, bytes):
                writer.write(page)
                await writer.drain()
            else:
                await page(reader, writer)
        except (OSError, asyncio.IncompleteReadError):  # the client went away
            self.hung_up.set()
        finally:
            writer.close()


@asynccontextmanager
async def serving(pages: Mapping[str, Page]) -> AsyncIterator[Server]:
    """`pages` over TLS."""
    server = Server(pages)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "certificate.pem"
        path.write_bytes(certificate())
        context.load_cert_chain(path)
    context.sni_callback = lambda _, name, __: server.names.append(name)
    listening = await asyncio.start_server(server.respond, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


@dataclass
class Outcome:
    """What came of one fetch: the body, or the refusal; and what the world outside saw of it."""

    found: bytes | FetchError
    names: Names
    wires: Wires
    server: Server

    def refused(self, code: str) -> str:
        """The refusal's text; it must be of kind `code`, and one of the fixed texts."""
        assert isinstance(self.found, FetchError), self.found
        assert self.found.code == code, self.found
        said = self.found.message
        assert not any(secret in said for secret in (PUBLIC, "127.0", "10.0", "example", "remote", "SECRET"))
        return said


def fetch(
    url: str = URL,
    pages: Mapping[str, Page] | None = None,
    names: Mapping[str, Sequence[Sequence[str]]] | None = None,
    *,
    max_bytes: int = 1000,
    seconds: float = 20,
    settings: Mapping[str, Any] | None = None,
) -> Outcome:
    """Fetch `url` where `pages` are served and `names` resolve, each look-up by its own list of addresses."""

    async def run() -> Outcome:
        async with serving({"/a.png": answer(BODY)} if pages is None else pages) as server:
            resolver, wires = Names({HOST: [[PUBLIC]], **(names or {})}), Wires(server.port)
            fetcher = Fetcher(
                FetchSettings.model_validate({**ALLOWED, **(settings or {})}),
                max_bytes,
                resolver=resolver,
                ssl_context=trusting(),
                network=wires,
            )
            try:
                found: bytes | FetchError = await fetcher.fetch(url, time.time() + seconds)
            except FetchError as error:
                found = error
            return Outcome(found, resolver, wires, server)

    return asyncio.run(run())
