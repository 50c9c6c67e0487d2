"""Where the service is, what opens it, and whether a proxy of the environment lies between."""

from __future__ import annotations

import os
import re
from ipaddress import ip_address

import httpx

KEY_VARIABLE = "TEXT2MASK_KEY"
_KEY = re.compile(r"[\x21-\x7e]+")


def service_url(url: str) -> httpx.URL:
    """`url`, checked, with a path that ends in `/`.

    Raises:
        ValueError: it is not http(s), names no host or no such port, or carries a user, a query or a fragment.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"this is no address of a service: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError("the address of a service looks like http://127.0.0.1:8000 or https://masks.example.org")
    if parsed.port is not None and not 0 < parsed.port < 2**16:
        raise ValueError("the port in the address is a number from 1 to 65535")
    if parsed.userinfo:
        raise ValueError("the address holds a user or a password: a key goes into `key`")
    if parsed.query or parsed.fragment:
        raise ValueError("the address of a service has no query and no fragment")
    return parsed.copy_with(path=parsed.path.rstrip("/") + "/")


def service_key(key: str | None) -> str | None:
    """`key`, or that of the environment where it is None; None where neither holds any text.

    Raises:
        ValueError: it holds what no key does, such as a space or a line break. The text does not show it.
    """
    found = os.environ.get(KEY_VARIABLE, "") if key is None else key
    if found and not _KEY.fullmatch(found):
        raise ValueError("a key is one word of printable ASCII; this one is not")
    return found or None


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine by its name or number alone. A proxy elsewhere could not reach it."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
