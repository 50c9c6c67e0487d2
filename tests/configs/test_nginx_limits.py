"""What the front proxy keeps from the service: too much, too slow, too many at once. Live, without Ray."""

from __future__ import annotations

import json
import socket
import time

import httpx
import pytest

from tests.configs import front
from tests.configs.front import (
    BODY,
    BODY_S,
    HEADER_S,
    MB,
    Upstream,
    connect,
    head,
    needs_nginx,
    parts,
    read_all,
    refused,
)


@needs_nginx
def test_an_announced_body_beyond_the_limit_is_refused_before_it_is_sent(port: int, upstream: Upstream) -> None:
    with connect(port) as connection:
        connection.sendall(head("Content-Type: application/json", f"Content-Length: {300 * MB}"))
        connection.shutdown(socket.SHUT_WR)
        refused(read_all(connection), 413, "body_too_large")
    assert upstream.requests == []


@needs_nginx
def test_a_chunked_body_beyond_the_limit_is_refused_while_it_is_sent(port: int, upstream: Upstream) -> None:
    sent = 0
    with connect(port) as connection:
        connection.sendall(head("Content-Type: application/json", "Transfer-Encoding: chunked"))
        connection.settimeout(0)
        answer = b""
        while sent < 300 and not answer:
            connection.settimeout(front.PATIENCE_S)
            connection.sendall(b"%x\r\n%b\r\n" % (MB, bytes(MB)))
            sent += 1
            connection.settimeout(0)
            try:
                answer = connection.recv(2**16)
            except BlockingIOError:
                continue
    refused(answer, 413, "body_too_large")
    assert 60 <= sent < 100
    assert upstream.requests == []


@needs_nginx
def test_a_body_where_none_belongs_is_refused(port: int, upstream: Upstream) -> None:
    with connect(port) as connection:
        connection.sendall(head(f"Content-Length: {MB}", path="/readyz", method="GET"))
        refused(read_all(connection), 413, "body_too_large")
    assert upstream.requests == []


@needs_nginx
@pytest.mark.parametrize(
    ("begun", "time_s"),
    [
        (b"POST /v1/segment HTTP/1.1\r\nHost: a\r\n", HEADER_S),
        (b"", HEADER_S),
        (head("Content-Type: application/json", "Content-Length: 1000") + b"{", BODY_S),
    ],
    ids=["headers", "nothing", "body"],
)
def test_who_stalls_is_cut_off(port: int, upstream: Upstream, begun: bytes, time_s: float) -> None:
    start = time.monotonic()
    with connect(port) as connection:
        connection.sendall(begun)
        assert read_all(connection) == b""  # closed, without an answer
    assert 0.9 * time_s <= time.monotonic() - start < time_s + 5
    assert upstream.requests == []


@needs_nginx
def test_headers_that_drip_are_cut_off_too(port: int, upstream: Upstream) -> None:
    start = time.monotonic()
    with connect(port) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        connection.settimeout(HEADER_S / 4)
        while time.monotonic() - start < HEADER_S + 5:
            try:
                connection.sendall(b"X-A: a\r\n")
                assert connection.recv(1) == b""
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
    assert time.monotonic() - start < HEADER_S + 4
    assert upstream.requests == []


@needs_nginx
def test_a_body_reaches_the_service_only_when_it_is_whole(port: int, upstream: Upstream, client: httpx.Client) -> None:
    body = json.dumps(BODY).encode()
    with connect(port) as connection:
        connection.sendall(
            head("Content-Type: application/json", f"Content-Length: {len(body)}", "X-Request-Id: slow") + body[:-1]
        )
        assert client.get("/healthz").status_code == 200  # another one passes meanwhile
        assert [path for _, path, _ in upstream.requests] == ["/healthz"]
        connection.sendall(body[-1:])
        status, _, content = parts(read_all(connection))
    assert status == 200
    assert json.loads(content)["id"] == "slow"


@needs_nginx
def test_too_many_connections_of_one_address(served: Upstream) -> None:
    waits = head("Content-Type: application/json", "Content-Length: 9", "Expect: 100-continue")
    changes = {"limit_conn address 32": "limit_conn address 1", "client_body_timeout 20s": "client_body_timeout 60s"}
    with front.nginx(served.port, changes) as port, connect(port) as first, connect(port) as second:
        first.sendall(waits)
        assert first.recv(100).startswith(b"HTTP/1.1 100")  # counted, and waiting for the body
        second.sendall(head(path="/healthz", method="GET"))
        answer = read_all(second)
    refused(answer, 429, "rate_limited")
    assert int(parts(answer)[1]["retry-after"]) >= 1
