"""Single numbers that a caller gives, checked: Python's own and NumPy's, never a boolean.

What comes back is always Python's: beside arrays of float32 a NumPy scalar would be compared in its own precision, so
`np.float64(0.7)` could keep a box that `0.7` drops.
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import StageError


def fraction(value: object, param: str) -> float:
    """A number from 0 to 1. Raises StageError `invalid_value`, naming `param`, for anything else, NaN included."""
    number = not isinstance(value, bool) and isinstance(value, (int, float, np.integer, np.floating))
    if not number or not 0 <= value <= 1:  # type: ignore[operator]  # NaN fails the comparison too
        raise StageError("invalid_value", "must be a number from 0 to 1", param)
    return float(value)  # type: ignore[arg-type]


def integer(value: object, param: str) -> int:
    """A whole number of an integer type. Raises StageError `invalid_value`, naming `param`, for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise StageError("invalid_value", "must be an integer", param)
    return int(value)
