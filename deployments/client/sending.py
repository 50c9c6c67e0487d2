"""Sends one request and takes the answer in, within a time and a size."""

from __future__ import annotations

import asyncio
import ssl

import httpx

from deployments.client.answers import MAX_ERROR_BYTES, Reply
from deployments.client.errors import ClientError, FaultError, UnavailableError
from deployments.client.wire import Outgoing

CONNECT_S = 10.0  # a host that does not answer to a connection may do so to the next
_KEPT_HEADERS = ("content-type", "retry-after", "location", "content-encoding")


class UntrustedError(UnavailableError):
    """The server's certificate does not stand for its name: no other attempt would change that."""

    transient = False


async def send(
    http: httpx.AsyncClient, outgoing: Outgoing, left_s: float, max_bytes: int
) -> Reply | ClientError | None:
    """The answer; the error where there is none; None where `left_s` seconds are over first."""
    request = http.build_request(
        outgoing.method,
        outgoing.path,
        headers=dict(outgoing.headers),
        timeout=httpx.Timeout(None, connect=min(CONNECT_S, left_s)),  # asyncio's covers all of it
        **outgoing.content,
    )
    try:
        async with asyncio.timeout(left_s):
            response = await http.send(request, stream=True, follow_redirects=False)
            try:
                return await _take_in(response, max_bytes)
            finally:
                await response.aclose()
    except TimeoutError:
        return None
    except (httpx.TransportError, httpx.DecodingError) as error:
        return _broken(error)


async def _take_in(response: httpx.Response, max_bytes: int) -> Reply | ClientError:
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        return FaultError("answer_not_understood", "the answer is compressed, though none was asked for")
    limit = max_bytes if response.status_code == 200 else MAX_ERROR_BYTES
    body = bytearray()
    whole = True
    async for chunk in response.aiter_raw():
        body += chunk[: limit - len(body) + 1]
        if len(body) > limit:
            whole = False
            break
    return Reply(response.status_code, headers, bytes(body[:limit]), whole)


def _broken(error: httpx.HTTPError) -> ClientError:
    """What kept the answer from coming, in words that hold nothing of the request."""
    kind: type[UnavailableError] = UntrustedError if _is_untrusted(error) else UnavailableError
    said = f": {error}" if str(error) else ""
    broken = kind("connection_failed", f"no answer came ({type(error).__name__}{said})")
    broken.__cause__ = error
    return broken


def _is_untrusted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
