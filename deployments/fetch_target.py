"""What may be fetched: one strict grammar of URLs, the operator's list of hosts, and which addresses are public."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpcore

MAX_URL_LENGTH = 4096  # signed links of the large stores have 500 to 2,000 characters
MAX_HOST_LENGTH = 253  # RFC 1035
PORT = 443

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# At least two labels, so `localhost` is none; the last begins with a letter, so no way to write an IPv4 address is one
# (decimal, octal, hexadecimal, shortened: their last part begins with a digit). No dot at the end, no underscore.
HOST_NAME = rf"(?:{_LABEL}\.)+(?!\d){_LABEL}"

# RFC 3986, without user name, other ports, IPv6 in brackets, or characters that must be percent-encoded: parsers
# disagree about those, and no picture needs them. An international name is written in its ASCII form, `xn--`.
_CHARACTER = r"[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2}"
_URL = re.compile(
    rf"[Hh][Tt][Tt][Pp][Ss]://(?P<host>{HOST_NAME})(?::{PORT})?"
    rf"(?P<path>/(?:{_CHARACTER})*)?(?P<query>\?(?:{_CHARACTER}|\?)*)?(?:#(?:{_CHARACTER}|\?)*)?"
)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, taken apart once. What is checked and what is dialled are this object; no text is parsed a second time.

    Attributes:
        host: its name in lower case.
        path_and_query: as they go into the request; the fragment is left out.
    """

    host: str
    path_and_query: str

    @property
    def url(self) -> httpcore.URL:
        return httpcore.URL(scheme=b"https", host=self.host.encode(), port=PORT, target=self.path_and_query.encode())

    def redirected(self, location: str) -> Target | None:
        """Where a `Location` header leads: a whole URL, `//host/path` or `/path`; None for anything else."""
        if location.startswith("//"):
            return parse(f"https:{location}")
        return parse(f"https://{self.host}{location}" if location.startswith("/") else location)


def parse(url: str) -> Target | None:
    """`url` taken apart; None where it is not of the one form that is fetched."""
    found = _URL.fullmatch(url) if len(url) <= MAX_URL_LENGTH else None
    if found is None or len(found["host"]) > MAX_HOST_LENGTH:
        return None
    return Target(found["host"].lower(), (found["path"] or "/") + (found["query"] or ""))


def is_allowed(host: str, allowed_hosts: Iterable[str]) -> bool:
    """Whether `host` is on the list: as itself, or below an entry such as `*.example.com` (at any depth)."""
    return any(host.endswith(rule[1:]) if rule.startswith("*.") else host == rule for rule in allowed_hosts)


# IANA's registries of special-purpose addresses, written out: Python's `is_global` differs between versions, and counts
# multicast as global.
_IPV4_REFUSED = tuple(
    ip_network(block)
    for block in (
        "0.0.0.0/8",  # this network; Linux connects 0.0.0.0 to itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; also Alibaba Cloud's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host agent, on a public address
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; also Oracle Cloud's metadata
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
)
_IPV6_GLOBAL = ip_network("2000::/3")  # all else is loopback, local, multicast or reserved
_IPV6_REFUSED = tuple(
    ip_network(block)
    for block in (
        "2001::/23",  # protocol assignments; Teredo, which carries an IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4, which carries an IPv4 address
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_NAT64 = ip_network("64:ff9b::/96")  # how a network without IPv4 reaches it: judged by the IPv4 address inside


def public_address(text: str) -> str | None:
    """The address to dial for a resolver's answer, in its normal form; None where it is not a public one."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        address = address.ipv4_mapped or address
    return str(address) if _is_public(address) else None


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in block for block in _IPV4_REFUSED)
    if address in _NAT64:
        return _is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _IPV6_GLOBAL and not any(address in block for block in _IPV6_REFUSED)
