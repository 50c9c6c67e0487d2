"""What pyarrow's file systems raise, in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.jobs.storage_options import (
    CREDENTIALS,
    FAILED,
    FORBIDDEN,
    NOT_ADDRESSABLE,
    NOT_FOUND,
    REFUSED,
    REGION,
    UNAVAILABLE,
    StorageError,
)

_AWS = re.compile(r"AWS Error (\w+) (?:\(HTTP status (\d+)\) )?during")
_STATUS = re.compile(r"google::cloud::Status\((\w+)")
_AZURE = re.compile(r"Azure Error: \[(\w*)\]")
_CODES = (
    (
        "storage_credentials",
        CREDENTIALS,
        r"SIGNATURE|ACCESS_KEY|TOKEN|EXPIRED|SKEWED|UNRECOGNIZED_CLIENT|UNAUTH|Authent",
    ),
    ("image_not_found", NOT_FOUND, r"^404$|NO_SUCH|NOT_?FOUND|NotFound"),
    ("image_forbidden", FORBIDDEN, r"^403$|ACCESS_DENIED|PERMISSION_DENIED|Authorization"),
    ("storage_failed", REGION, r"^301$|PERMANENT_REDIRECT"),
    (
        "storage_unavailable",
        UNAVAILABLE,
        r"^(5\d\d|429|408)$|NETWORK|SLOW_DOWN|THROTTL|INTERNAL_FAILURE|UNAVAILABLE|TIMEOUT|DEADLINE|Busy|^$",
    ),
    ("storage_failed", REFUSED, r"^400$"),
)


class LostAnswerError(StorageError):
    """The store's refusal was longer than the object that was asked for.

    The SDK gives pyarrow's buffer of the object's size to every answer, cannot keep this one, and so never learns that
    it was to try again.
    """


@contextmanager
def storage_errors(damaged: StorageError | None = None) -> Iterator[None]:
    """What pyarrow raises, as StorageError. For whoever reads a file that `Place.open_input` gave, too.

    Args:
        damaged: raised where the store gave the bytes and they are not what they should be.
    """
    from pyarrow import ArrowException

    try:
        yield
    except FileNotFoundError:
        raise StorageError("image_not_found", NOT_FOUND) from None
    except OSError as error:
        unknown = damaged if damaged is not None and error.errno is None else StorageError("storage_failed", FAILED)
        raise _understood(str(error)) or unknown from None
    except ArrowException:
        raise damaged or StorageError("storage_not_understood", NOT_ADDRESSABLE) from None


def _understood(text: str) -> StorageError | None:
    """The SDKs tell apart what happened by words of their messages alone. None: these are not the words of any."""
    if "OAuth2 access token" in text or "GetToken" in text or "ExpiredToken" in text:
        return StorageError("storage_credentials", CREDENTIALS)
    if "Failed to flush response stream" in text:
        return LostAnswerError("storage_unavailable", UNAVAILABLE)
    found = _AWS.search(text) or _STATUS.search(text) or _AZURE.search(text)
    if found is None:
        return None
    reason = next((group for group in reversed(found.groups()) if group is not None), "")
    for code, message, pattern in _CODES:
        if re.search(pattern, reason):
            return StorageError(code, message)
    return StorageError("storage_failed", FAILED)
