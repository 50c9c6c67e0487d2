"""An HTTP server on a real socket that answers as a test says, an entry a request, and remembers what it got."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answers:
    """One answer: all of it, or its first `cut` bytes, after which the connection is reset."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None

    def wire(self) -> bytes:
        given = {"content-type": "application/json", "content-length": str(len(self.body)), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        return f"HTTP/1.1 {self.status} Said\r\n{lines}\r\n".encode() + self.body


CLOSE = "close without an answer"
RESET = "reset without an answer"
HOLD = "never answer"
DRIP = "a byte of the headers, and another, for ever"
Entry = Answers | str


def refusal(status: int, code: str, message: str = "a sentence", param: str | None = None, **headers: str) -> Answers:
    body = json.dumps({"error": {"code": code, "message": message, "param": param}}).encode()
    return Answers(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


@dataclass(frozen=True)
class Received:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def asked_by_id(self) -> str | None:
        """The image's id, where the request holds one in place of its bytes."""
        if not self.headers.get("content-type", "").startswith("application/json"):
            return None
        image: dict[str, str] = json.loads(self.body)["image"]
        return image["value"] if image["type"] == "id" else None


class ScriptedServer:
    """Attributes: `url`; `received`, in the order of arrival; `held`, set while a request is held."""

    def __init__(self, *script: Entry, forever: Entry | None = None) -> None:
        self.received: list[Received] = []
        self.held = threading.Event()
        self._script = list(script)
        self._forever = forever
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._open:
            connection.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as incoming:
                while (request := _read(incoming)) is not None:
                    with self._lock:
                        self.received.append(request)
                        entry = self._script.pop(0) if self._script else self._forever
                    assert entry is not None, "more requests than the script has entries"
                    if not self._answer(connection, entry):
                        return
        except OSError:
            pass

    def _answer(self, connection: socket.socket, entry: Entry) -> bool:
        """Whether the connection stays open."""
        if isinstance(entry, Answers) and entry.cut is None:
            connection.sendall(entry.wire())
            return True
        if isinstance(entry, Answers):
            connection.sendall(entry.wire()[: entry.cut])
        elif entry == HOLD:
            self.held.set()
            self._ended.wait()
        elif entry == DRIP:
            connection.sendall(b"HTTP/1.1 200 OK\r\nx-drip: ")
            self.held.set()
            while not self._ended.wait(0.02):
                connection.sendall(b"a")
        if entry == CLOSE:
            connection.shutdown(socket.SHUT_RDWR)
        else:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


def _read(incoming: Any) -> Received | None:
    first = incoming.readline().decode().split()
    if not first:
        return None
    headers: dict[str, str] = {}
    while line := incoming.readline().decode().strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Received(first[0], first[1], headers, incoming.read(int(headers.get("content-length", "0"))))


@contextmanager
def scripted(*script: Entry, forever: Entry | None = None) -> Iterator[ScriptedServer]:
    server = ScriptedServer(*script, forever=forever)
    try:
        yield server
    finally:
        server.close()
