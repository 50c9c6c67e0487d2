"""Batch jobs: folders, buckets and manifests through the stages, by Ray Data.

`import deployments.jobs` is cheap: the names below load their module, and Ray, on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.lazy import lazy

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

__getattr__, __dir__ = lazy(__name__, _HOME, "local,serve,jobs")
