"""The end of a job that was begun."""

from __future__ import annotations


class JobError(RuntimeError):
    """The job cannot go on. What it has done is kept, and the same call goes on from there."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}. What was done is kept; the same command goes on from there")
