"""What the client raises on the service's account."""

from __future__ import annotations

from typing import ClassVar


class ClientError(Exception):
    """A call that the service did not answer with a result. Faults of the caller's own are others: `OSError` of a file
    that cannot be read, `pipeline.StageError`, `ValueError` and `TypeError` of an argument.

    Attributes:
        code: as the service names it (`invalid_value`, `overloaded`, …); or the client's own:
            `deadline_exceeded`, `connection_failed`, `redirected`, `answer_too_large`, `answer_not_understood`, and
            `http_413` and the like for an answer that is not in the service's format.
        message: a sentence.
        param: the field at fault, if the service named one.
        status: of the HTTP answer; None where none came.
        request_id: under which service and client speak of this call.
        retry_after_s: what the answer asked to wait, in seconds; None where it did not.
    """

    transient: ClassVar[bool] = False
    """Whether the same call may succeed later."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        status: int | None = None,
        request_id: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.status = status
        self.request_id = request_id
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        where = "" if self.param is None else f"{self.param}: "
        whose = f"; request {self.request_id}" if self.request_id else ""
        return f"{where}{self.message} ({self.code}{whose})"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (type(self), self.code, self.message, self.__dict__)


class RefusedError(ClientError):
    """The service will not do this, however often it is asked: status 400, 403, 404, 405, 413, 415, 422, and others."""


class UnauthenticatedError(RefusedError):
    """401: the service wants a key, or another one."""


class OverloadedError(ClientError):
    """429: the service has too much to do, or the key's owner asks too often."""

    transient = True


class UnavailableError(ClientError):
    """No connection, one that broke, or an answer that nobody behind a proxy gave: 502, 503, 504, 500 in plain text."""

    transient = True


class DeadlineError(ClientError, TimeoutError):
    """The call's time is over, by the client's clock or by the service's (408). `__cause__` is the failure before it,
    where there was one."""


class FaultError(ClientError):
    """The service failed on this call (500), or gave an answer that is none of its own."""


def _rebuilt(kind: type[ClientError], code: str, message: str, state: dict[str, object]) -> ClientError:
    error = kind(code, message)
    error.__dict__.update(state)
    return error
