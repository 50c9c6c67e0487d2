"""The one place that fetches a URL, for requests and for batch jobs. Off unless the operator names hosts.

    parse once -> host on the list? -> look up once -> all addresses public? -> dial one of them -> TLS for the name
        ^                                                                                               |
        +------------------------- each redirect goes the whole way ------------------------------------+

httpcore, below httpx, speaks HTTP here: it takes a URL in parts and a network to dial through, and it knows no proxies,
cookies, redirects, credentials or content encodings.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpcore

from deployments.fetch_settings import FetchSettings
from deployments.fetch_target import PORT, Target, is_allowed, parse, public_address
from deployments.logs import LOGGER
from pipeline.image import ImageLimits

logger = logging.getLogger(LOGGER)

Resolver = Callable[[str], Awaitable[Sequence[str]]]
"""A host's name -> all of its addresses. Raises OSError where it has none."""

_MAX_DIALLED = 3  # a host of which three addresses refuse is down
_MAX_PIECES = 65_536  # of a body; chunks of one byte would keep the event loop from all other requests
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = [
    ("User-Agent", "text2mask"),
    ("Accept", "image/*"),
    ("Accept-Encoding", "identity"),  # so that bytes counted are bytes held
    ("Connection", "close"),
]

_OFF = "images by URL are off; the operator of this service must enable them (setting fetch.enabled). Send base64"
_NOT_A_URL = (
    "must be https:// with a host's name, without user name or a port other than 443, and with every character that "
    "a URL may not hold percent-encoded"
)
_NOT_ALLOWED = "this URL, or one that it redirects to, is none that the operator of this service allows"
_NOT_FETCHED = "there was no image to be had from this URL"
_TOO_LATE = "the image did not arrive from this URL in time"


class FetchError(Exception):
    """Nothing was fetched.

    Args:
        code: `url_not_allowed`, `invalid_value`, `url_not_fetched`, `deadline_exceeded` or `image_too_large`.
        message: for the caller; one of a few fixed texts, which name no address and repeat nothing of the remote's.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class Fetcher:
    """Fetches images from the hosts that the settings list.

    Args:
        settings: which hosts, how much, how long.
        max_bytes: of an image that the caller can use; the settings may say less.
        resolver: looks names up; by default the system's resolver.
        ssl_context: whose certificates are trusted; by default the system's and certifi's.
        network: what opens connections to addresses.
    """

    def __init__(
        self,
        settings: FetchSettings,
        max_bytes: int = ImageLimits().max_bytes,
        *,
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._settings = settings
        self._max_bytes = min(max_bytes, settings.max_bytes)
        self._resolve = resolver or _SystemResolver()
        self._network = network or httpcore.AnyIOBackend()
        if settings.enabled and ssl_context is None:
            ssl_context = httpcore.default_ssl_context()
        self._ssl_context = ssl_context

    async def fetch(self, url: str, deadline: float) -> bytes:
        """The body at `url`, before `deadline` (Unix time in seconds). That it is an image is not checked here.

        Raises:
            FetchError: whatever the reason.
        """
        if not self._settings.enabled:
            raise FetchError("url_not_allowed", _OFF)
        target = parse(url)
        if target is None:
            raise FetchError("invalid_value", _NOT_A_URL)
        try:
            async with asyncio.timeout(min(deadline - time.time(), self._settings.timeout_s)):
                return await self._follow(target)
        except (TimeoutError, httpcore.TimeoutException):
            raise FetchError("deadline_exceeded", _TOO_LATE) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            logger.info("An image of %s was not fetched: %s.", target.host, type(error).__name__)
            raise FetchError("url_not_fetched", _NOT_FETCHED) from None

    async def _follow(self, target: Target) -> bytes:
        for _ in range(self._settings.max_redirects + 1):
            found = await self._get(target)
            if isinstance(found, bytes):
                return found
            next_target = target.redirected(found)
            if next_target is None:
                raise FetchError("url_not_allowed", _NOT_ALLOWED)
            target = next_target
        raise FetchError("url_not_fetched", _NOT_FETCHED)

    async def _get(self, target: Target) -> bytes | str:
        """The body at `target`, or the `Location` that it redirects to."""
        network = _CheckedNetwork(self._network, await self._addresses(target.host))
        url = target.url
        connection = httpcore.AsyncHTTPConnection(url.origin, ssl_context=self._ssl_context, network_backend=network)
        try:
            async with connection.stream("GET", url, headers=_HEADERS) as response:
                if response.status in _REDIRECTS:
                    return _location(response)
                if response.status != 200 or _header(response, b"content-encoding") not in ("", "identity"):
                    raise FetchError("url_not_fetched", _NOT_FETCHED)
                return await self._body(response)
        finally:
            await network.aclose()

    async def _addresses(self, host: str) -> list[str]:
        """The addresses of `host`, looked up once. One that is not public condemns them all."""
        if not is_allowed(host, self._settings.allowed_hosts):
            raise FetchError("url_not_allowed", _NOT_ALLOWED)
        addresses = [public_address(answer) for answer in await self._resolve(host)]
        public = [address for address in addresses if address is not None]
        if len(public) < len(addresses):
            logger.warning("%s has an address that is not public; it was not dialled.", host)
            raise FetchError("url_not_allowed", _NOT_ALLOWED)
        return public

    async def _body(self, response: httpcore.Response) -> bytes:
        too_large = FetchError("image_too_large", f"the image may have at most {self._max_bytes} bytes")
        announced = _header(response, b"content-length")
        if announced and int(announced) > self._max_bytes:  # h11 has refused what is not a number
            raise too_large
        body, pieces = bytearray(), 0
        async for piece in response.aiter_stream():
            body += piece
            pieces += 1
            if len(body) > self._max_bytes:
                raise too_large
            if pieces > _MAX_PIECES:
                raise FetchError("url_not_fetched", _NOT_FETCHED)
        return bytes(body)


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Opens connections to addresses that were checked, whatever it is asked for; TLS goes by the name all the same."""

    def __init__(self, network: httpcore.AsyncNetworkBackend, addresses: Sequence[str]) -> None:
        self._network = network
        self._addresses = addresses[:_MAX_DIALLED]
        self._opened: list[httpcore.AsyncNetworkStream] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        for address in self._addresses:
            try:
                stream = await self._network.connect_tcp(address, PORT)
            except httpcore.ConnectError:
                continue
            self._opened.append(stream)
            return stream
        raise httpcore.ConnectError

    async def aclose(self) -> None:
        """Close what was opened. httpcore leaves a connection open that is given up during the TLS handshake."""
        for stream in self._opened:
            await stream.aclose()


class _SystemResolver:
    """`getaddrinfo`, in threads of its own: those of the event loop do other requests' work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="look-up")  # started when first needed

    async def __call__(self, host: str) -> list[str]:
        loop = asyncio.get_running_loop()
        # The dot at the end: this very name, and not one below a search domain of the cluster's.
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(f"{host}.".encode(), PORT, type=socket.SOCK_STREAM)
        )
        return [str(address[0]) for *_, address in found]


def _header(response: httpcore.Response, name: bytes) -> str:
    """The header's value in lower case, "" if absent; several are one list, as HTTP has it."""
    return ", ".join(value.decode("latin-1").lower() for key, value in response.headers if key.lower() == name)


def _location(response: httpcore.Response) -> str:
    """Where the answer redirects to; "" (which is nowhere) unless it says so once."""
    found = [value for key, value in response.headers if key.lower() == b"location"]
    return found[0].decode("latin-1") if len(found) == 1 else ""
