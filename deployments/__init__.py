"""Where it runs: the Ray Serve application, its HTTP face, the client and the command line. No tensor maths here.

`import deployments` is cheap: the names below load their module (and ray, where it needs it) on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error.msg}; pip install 'text2mask[local,serve]'", name=error.name) from error
    globals()[name] = value  # the next look-up finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
