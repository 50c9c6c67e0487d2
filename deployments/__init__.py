"""Where it runs: the Ray Serve application, its HTTP face, the client and the command line. No tensor maths here.

`import deployments` is cheap: the names below load their module (and ray, where it needs it) on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.lazy import lazy

if TYPE_CHECKING:
    from deployments.app import build_app
    from deployments.client import AsyncClient, Client, ClientError, ImageUrl
    from deployments.settings import Settings

__all__ = ["AsyncClient", "Client", "ClientError", "ImageUrl", "Settings", "build_app"]

_HOME = {
    "AsyncClient": "deployments.client",
    "Client": "deployments.client",
    "ClientError": "deployments.client",
    "ImageUrl": "deployments.client",
    "Settings": "deployments.settings",
    "build_app": "deployments.app",
}

__getattr__, __dir__ = lazy(__name__, _HOME, "local,serve")
