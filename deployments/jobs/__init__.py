"""Batch jobs: folders, buckets and manifests through the stages, by Ray Data.

`import deployments.jobs` is cheap: the names below load their module, and Ray, on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployments.jobs.errors import JobError
    from deployments.jobs.export import export_results
    from deployments.jobs.results import live_parts, read_results
    from deployments.jobs.run import run_batch
    from deployments.jobs.storage import StorageOptions

__all__ = ["JobError", "StorageOptions", "export_results", "live_parts", "read_results", "run_batch"]

_HOME = {
    "JobError": "deployments.jobs.errors",
    "StorageOptions": "deployments.jobs.storage",
    "export_results": "deployments.jobs.export",
    "live_parts": "deployments.jobs.results",
    "read_results": "deployments.jobs.results",
    "run_batch": "deployments.jobs.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOME[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("deployments", "pipeline")):
            raise
        raise ModuleNotFoundError(f"{error.msg}; pip install 'text2mask[local,serve,jobs]'", name=error.name) from error
    globals()[name] = value
    return value
