"""Low-resolution logits in JSON: what a mask request returns, and takes back as `mask_input`."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import StageError

Float16Array = npt.NDArray[np.float16]

MAX_SIDE = 256
"""Of the official models."""
_DTYPE = np.dtype("<f2")
_LARGEST = float(np.finfo(np.float16).max)


def half(logits: npt.NDArray[np.float32]) -> Float16Array:
    """float32 logits as float16, in half the bytes; what is beyond its range becomes its largest, not infinite."""
    return np.clip(logits, -_LARGEST, _LARGEST).astype(np.float16)


def low_res_json(logits: Float16Array) -> dict[str, Any]:
    """`LxL` logits as `{"shape", "dtype", "data"}`: base64 of little-endian float16, row by row."""
    data = b64encode(logits.astype(_DTYPE).tobytes()).decode("ascii")
    return {"shape": list(logits.shape), "dtype": "float16", "data": data}


def read_low_res(given: Mapping[str, Any], param: str = "mask_input") -> Float16Array:
    """The logits that `low_res_json` wrote. Its text is measured against the shape before it is decoded.

    Raises:
        StageError: `invalid_value`, with `param`, for anything else.
    """
    try:
        (height, width), data = given["shape"], given["data"]
        known = given["dtype"] == "float16" and height == width and 1 <= height <= MAX_SIDE
        if known and len(data) == 4 * -(-height * width * _DTYPE.itemsize // 3):
            values = np.frombuffer(b64decode(data, validate=True), _DTYPE)
            return values.reshape(height, width).astype(np.float16)
    except (KeyError, TypeError, ValueError):
        pass
    raise StageError("invalid_value", "must be a low_res of an earlier answer, as it was given", param)
