"""How jobs reach files and objects, and the ways in which that fails."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from deployments.stage_settings import Section


class StorageOptions(Section):
    """Where the store is. No secret: it travels to workers, which find their credentials as any client of AWS does."""

    endpoint_url: Annotated[
        str | None,
        Field(
            description="`http://` or `https://`, host and port of a store that speaks S3, such as MinIO. Else "
            "`AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, the profile's `endpoint_url`, Amazon's own.",
        ),
    ] = None
    region: Annotated[
        str | None,
        Field(min_length=1, description="Of the bucket. Else asked of Amazon, or the environment's, or `us-east-1`."),
    ] = None
    anonymous: Annotated[bool, Field(description="Send no credentials: public buckets.")] = False
    timeout_s: Annotated[
        float, Field(gt=0, description="Longest silence within one request, in seconds; connecting takes 10 at most.")
    ] = 30
    attempts: Annotated[
        int,
        Field(
            ge=1,
            le=20,
            description="Of one request that ends in 5xx, 429, silence or a broken connection. The waits between them "
            "are random and double, from one second at most to 20.",
        ),
    ] = 5

    @field_validator("endpoint_url")
    @classmethod
    def _has_a_scheme(cls, value: str | None) -> str | None:
        scheme, sign, host = (value or "http://x").partition("://")
        if not sign or scheme.lower() not in ("http", "https") or not host.strip("/"):
            raise ValueError("must be http:// or https://, a host and, where needed, a port")
        return value


NOT_FOUND = "there is no such file or object"
FORBIDDEN = "these credentials, or this user, may not read it"
UNAVAILABLE = "the store could not be reached, or was too busy, after all attempts"
CREDENTIALS = "the store does not take these credentials: they are wrong or expired, or their token cannot be had"
NOT_ALLOWED = "these credentials may not list or read here, or none were found (environment, profile, machine's role)"
NOT_ADDRESSABLE = (
    "the store's client cannot ask for a key with an empty part (//), a part . or .., or a / at its end; copy the "
    "object to another key"
)
FAILED = "the store could not give or take it"
REGION = "the bucket lies in another region: name that one (region)"
REFUSED = "the store calls the request bad: credentials expired, another region, or a key that only its owner decrypts"


class StorageError(Exception):
    """Nothing was read or written.

    Args:
        code: `image_not_found`, `image_forbidden`, `image_too_large`, `storage_unavailable`, `storage_credentials`,
            `storage_not_understood` or `storage_failed`.
        message: one of a few fixed texts, which repeat nothing of the store's.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return self.message


def too_large(max_bytes: int) -> StorageError:
    return StorageError("image_too_large", f"the image may have at most {max_bytes} bytes")
