"""When a request must be answered: `x-request-timeout-seconds`, less a margin.

Serve's proxy enforces the header too, in plain text. Ours ends a little earlier, so that the caller reads our format.
"""

from __future__ import annotations

import math
import re

from starlette.datastructures import Headers

from deployments.http.errors import ApiError

HEADER = "x-request-timeout-seconds"
MARGIN_S = 0.25
_NUMBER = re.compile(r"\s*\+?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?\s*", re.ASCII)  # Python reads 1_0 as a number, too


def deadline_of(headers: Headers, now: float, max_timeout_s: float) -> float:
    """Unix time in seconds until which a request that came at `now` is worked on.

    Raises:
        ApiError: `invalid_value`, where the header is not one positive, finite number.
    """
    given = headers.getlist(HEADER)
    if not given:
        return now + max_timeout_s
    timeout = float(given[0]) if _NUMBER.fullmatch(given[0]) else math.nan
    if len(given) > 1 or not math.isfinite(timeout) or timeout <= 0:
        raise ApiError("invalid_value", "must be a positive number of seconds", HEADER)
    return now + min(timeout - min(MARGIN_S, timeout / 2), max_timeout_s)
