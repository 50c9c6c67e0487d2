"""Clients of object stores, one for each bucket: endpoint, region and credentials."""

from __future__ import annotations

import configparser
import os
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from deployments.jobs.storage_options import StorageError, StorageOptions

if TYPE_CHECKING:
    from pyarrow import fs

_CONNECT_S = 10.0  # at most, for a connection to be there
_ENVIRONMENT = ("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR_HOST")


def connect(scheme: str, bucket: str, options: StorageOptions) -> fs.FileSystem:
    """A client, threadsafe; the same one again while the environment is the same.

    Args:
        scheme: `s3`, `gs` or `abfs`.
        bucket: its name; for Azure `container` or `container@account.dfs.core.windows.net`.
        options: how it is reached.

    Raises:
        StorageError: `storage_not_understood`, for an account of Azure's that nobody names.
        OSError: pyarrow's own; see `deployments.jobs.store_errors`.
    """
    told = tuple(sorted(item for item in os.environ.items() if item[0].startswith(_ENVIRONMENT)))
    return _connect(scheme, bucket, options, told)


@lru_cache(maxsize=32)
def _connect(scheme: str, bucket: str, options: StorageOptions, environment: tuple[tuple[str, str], ...]) -> Any:
    """One client for each bucket and environment, with its pool of connections; it refreshes what a role lends it."""
    return {"s3": _s3, "gs": _gs, "abfs": _abfs}[scheme](bucket, options, dict(environment))


def _s3(bucket: str, options: StorageOptions, environment: dict[str, str]) -> fs.FileSystem:
    from pyarrow import fs

    named = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    endpoint = options.endpoint_url or named or _of_profile("endpoint_url", environment)
    scheme, _, host = (endpoint or "https://").rstrip("/").partition("://")
    known = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or _of_profile("region", environment)
    region = options.region
    if region is None and not endpoint:
        region = _looked_up(bucket) or known
    return fs.S3FileSystem(
        anonymous=options.anonymous,
        region=region or known or "us-east-1",
        endpoint_override=host or None,
        scheme=scheme.lower(),
        request_timeout=options.timeout_s,
        connect_timeout=min(options.timeout_s, _CONNECT_S),
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=options.attempts),
        allow_delayed_open=True,  # what fits in one part is one upload
        tls_ca_file_path=environment.get("AWS_CA_BUNDLE"),
    )


def _of_profile(name: str, environment: dict[str, str]) -> str | None:
    """What the profile says plainly. pyarrow's client takes its credentials from there, and nothing else."""
    profile = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE") or "default"
    parser = configparser.RawConfigParser()
    try:
        parser.read(os.path.expanduser(environment.get("AWS_CONFIG_FILE") or "~/.aws/config"), encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return None
    for section in (f"profile {profile}", profile):
        if parser.has_option(section, name):
            return parser.get(section, name).strip()
    return None


def _looked_up(bucket: str) -> str | None:
    from pyarrow import fs

    try:
        return str(fs.resolve_s3_region(bucket))
    except OSError:
        return None  # the first request will say why


def _gs(bucket: str, options: StorageOptions, environment: dict[str, str]) -> fs.FileSystem:
    from pyarrow import fs

    scheme, _, host = environment.get("STORAGE_EMULATOR_HOST", "").rstrip("/").rpartition("://")
    return fs.GcsFileSystem(
        anonymous=options.anonymous,
        scheme=scheme.rstrip(":/") or None,
        endpoint_override=host or None,
        retry_time_limit=timedelta(seconds=max(1, round(options.timeout_s))),
    )


def _abfs(bucket: str, options: StorageOptions, environment: dict[str, str]) -> fs.FileSystem:
    from pyarrow import fs

    account = bucket.partition("@")[2].partition(".")[0]
    account = account or environment.get("AZURE_STORAGE_ACCOUNT_NAME") or environment.get("AZURE_STORAGE_ACCOUNT") or ""
    if not account:
        raise StorageError(
            "storage_not_understood",
            "which account? abfs://container@account.dfs.core.windows.net/path, or set AZURE_STORAGE_ACCOUNT",
        )
    if options.anonymous:
        raise StorageError("storage_not_understood", "abfs:// cannot be read without credentials here")
    return fs.AzureFileSystem(
        account,
        account_key=environment.get("AZURE_STORAGE_ACCOUNT_KEY") or environment.get("AZURE_STORAGE_KEY"),
        sas_token=environment.get("AZURE_STORAGE_SAS_TOKEN"),
    )
