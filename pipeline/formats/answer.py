"""The text of an answer, made piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

_write = partial(json.dumps, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def answer_pieces(frame: Mapping[str, Any], detections: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The JSON text of `frame` with `detections` in place of its own, one detection at a time.

    Polygons of many masks are large as Python objects, so they must not all be there at once.
    """
    before = "{"
    for name, value in frame.items():
        yield f'{before}"{name}":'
        before = ","
        if name == "detections":
            yield "["
            for index, detection in enumerate(detections):
                yield "," * (index > 0) + _write(detection)
            yield "]"
        else:
            yield _write(value)
    yield "}"


def number(value: np.float32) -> float:
    """The shortest decimal that is read back as the same float32: 0.83, not 0.8299999833106995."""
    return float(str(value))
