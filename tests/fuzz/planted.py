"""Faults that the harness must find, or else it finds nothing elsewhere either."""

from __future__ import annotations

from collections.abc import Callable

_kept: list[bytearray] = []


def raises(data: bytes) -> None:
    if data[:1] == b"a" and data[1:2] == b"b":
        raise KeyError("not documented")


def hangs(data: bytes) -> None:
    while data[:1] == b"h":
        pass


def grows(data: bytes) -> None:
    _kept.append(bytearray(b"x" * 2**20))
    for _ in range(20_000):  # slowly: libFuzzer looks once a second
        pass


def is_quadratic(data: bytes) -> None:
    for _ in range((len(data) // 8) ** 2):
        pass


PLANTED: dict[str, Callable[[bytes], None]] = {
    "planted_raise": raises,
    "planted_hang": hangs,
    "planted_growth": grows,
    "planted_quadratic": is_quadratic,
}
