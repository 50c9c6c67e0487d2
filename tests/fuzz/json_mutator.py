"""Changes one value within a JSON text. Byte by byte, nearly every change makes it no JSON at all."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

_ODD: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, -0.0, 255, 256, 4096, 2**31, 2**63, -(2**64), 10**400, 1e-320, 1e308,
    float("inf"), float("nan"), "", " ", "0.5", "true", "[1]", "auto", "\x00", "\ud800", "e\u0301", "\u202e", "a" * 300,
    [], {}, [[]], [{}], [None], {"": None}, {"text": "car"}, {"type": "id", "value": ""}, [0] * 1001,
]  # fmt: skip


def changed(data: bytes, max_size: int, seed: int, mutate: Callable[[bytes, int], bytes]) -> bytes:
    """`data` with one value replaced, removed, doubled, wrapped or exchanged; at times left to `mutate`.

    Args:
        data: a JSON text, or what `mutate` has made of one.
        max_size: of the result, in bytes; `mutate` steps in where it would be exceeded.
        seed: the same one gives the same change.
        mutate: changes bytes.
    """
    dice = random.Random(seed)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return mutate(data, max_size)
    if dice.random() < 0.3:
        return mutate(data, max_size)
    for _ in range(dice.choice((1, 1, 2, 4))):
        value = _change(value, dice)
    found = json.dumps(value, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
    return found if len(found) <= max_size else mutate(data, max_size)


def _change(whole: Any, dice: random.Random) -> Any:
    places = list(_places(whole))
    if not places:
        return _odd(dice)
    container, key = dice.choice(places)
    match dice.randrange(7):
        case 0 | 1:
            container[key] = _odd(dice)
        case 2:
            del container[key]
        case 3:
            container[key] = [container[key]]
        case 4:
            other, its = dice.choice(places)
            if not list(_places(other[its])) and not list(_places(container[key])):  # so nothing comes to hold itself
                container[key], other[its] = other[its], container[key]
        case 5 if isinstance(container, list):
            container.extend([container[key]] * dice.choice((1, 2, 100)))
        case 5:
            container[dice.choice(("text", "type", "size", "nonsense", ""))] = container[key]
        case _:
            container[key] = _nearby(container[key], dice)
    return json.loads(json.dumps(whole))  # one value at two places becomes two values


def _odd(dice: random.Random) -> Any:
    return deepcopy(dice.choice(_ODD))  # it is changed in turn


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every `(container, key)` within `value`."""
    if not isinstance(value, (dict, list)):
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        yield from _places(inner)


def _nearby(value: Any, dice: random.Random) -> Any:
    if isinstance(value, str) and value:
        cut = dice.randrange(len(value) + 1)
        new = dice.choice(("", ",", ".", "[SEP]", "\u0301", "=", chr(dice.randrange(0xD800))))
        return value[:cut] + new + value[cut + 1 :]
    if isinstance(value, (int, float)):
        return dice.choice(
            (value + 1, value - 1, -value, value * 2, value / 2 if abs(value) < 1e300 else 0, str(value))
        )
    return _odd(dice)
