"""The service's API for Python, blocking and asynchronous. No torch, no ray.

from deployments.client import Client, AsyncClient
"""

from __future__ import annotations

from deployments.client.asynchronous import AsyncClient
from deployments.client.blocking import Client
from deployments.client.errors import (
    ClientError,
    DeadlineError,
    FaultError,
    OverloadedError,
    RefusedError,
    UnauthenticatedError,
    UnavailableError,
)
from deployments.client.exchange import ClientStats
from deployments.client.many import Answer
from deployments.image_ids import ImageId, ImageUrl

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "ClientError",
    "ClientStats",
    "DeadlineError",
    "FaultError",
    "ImageId",
    "ImageUrl",
    "OverloadedError",
    "RefusedError",
    "UnauthenticatedError",
    "UnavailableError",
]
