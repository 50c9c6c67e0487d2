"""How to reach object storage: the options that `batch`, `export` and `eval` share. Credentials are none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deployments.cli.complaints import UsageError

if TYPE_CHECKING:
    from deployments.jobs.storage import StorageOptions

PANEL = "Object storage"

EndpointUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        rich_help_panel=PANEL,
        help="Of an S3-compatible store, such as MinIO; else AWS_ENDPOINT_URL, else AWS. Credentials are found as its "
        "own tools find them: environment, AWS_PROFILE, roles.",
    ),
]
Region = Annotated[
    str | None, typer.Option(rich_help_panel=PANEL, help="Of the bucket; unset: as the environment or AWS says.")
]
Anonymous = Annotated[
    bool, typer.Option("--anonymous", rich_help_panel=PANEL, help="Without credentials, as public buckets allow.")
]
StorageTimeout = Annotated[
    float,
    typer.Option(min=0.1, metavar="S", rich_help_panel=PANEL, help="Seconds for one answer; then it is asked again."),
]


def storage_options(endpoint_url: str | None, region: str | None, anonymous: bool, timeout_s: float) -> StorageOptions:
    """The options as jobs take them. Raises UsageError for one that cannot be."""
    from pydantic import ValidationError

    from deployments.jobs.storage import StorageOptions

    try:
        return StorageOptions(endpoint_url=endpoint_url, region=region, anonymous=anonymous, timeout_s=timeout_s)
    except ValidationError as error:
        fault = error.errors()[0]
        option = str(fault["loc"][0]).replace("_", "-")
        raise UsageError(f"--{option}: {fault['msg'].removeprefix('Value error, ')}") from None
