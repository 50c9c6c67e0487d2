"""The one error that crosses stage boundaries."""

from __future__ import annotations

from typing import Literal

ErrorCode = Literal[
    "invalid_value",
    "image_too_large",
    "image_format_not_allowed",
    "image_undecodable",
    "image_not_cached",
    "deadline_exceeded",
    "cancelled",
    "other_weights",
    "internal",
]


class StageError(Exception):
    """A refusal of one item, with a fixed text that is safe to show to the caller.

    Args:
        code: what went wrong, one of `ErrorCode`; the service maps it to a status.
        message: a sentence for the caller; never contains an exception's own text.
        param: the request field at fault, if one is.
    """

    def __init__(self, code: ErrorCode, message: str, param: str | None = None) -> None:
        super().__init__(code, message, param)  # args rebuild the error after pickling
        self.code: ErrorCode = code
        self.message = message
        self.param = param

    def __str__(self) -> str:
        return f"{self.message} ({self.code})" if self.param is None else f"{self.param}: {self.message} ({self.code})"


def too_late() -> StageError:
    """The refusal of an item whose deadline is over."""
    return StageError("deadline_exceeded", "the request's time was over before it was computed")
