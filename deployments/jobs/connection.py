"""The Ray that a job runs on."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from deployments.jobs.dataset import LOAD_CPUS, Step
from deployments.launch import OBJECT_STORE_BYTES
from deployments.settings import SettingsError


@contextmanager
def connected(address: str | None, through: list[Step]) -> Iterator[None]:
    """The Ray that this process is connected to, or that of the address or of `RAY_ADDRESS`, or one of this job's own.

    Raises:
        SettingsError: on a Ray of its own, for pools that this machine has no room for. Another may grow.
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own: dict[str, Any] = {}
    if address == "local":
        own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    try:
        if address == "local":
            _check_room(through)
        yield
    finally:
        ray.shutdown()


def _check_room(through: list[Step]) -> None:
    """Ray would wait for what is not there."""
    there = ray.cluster_resources()
    cpus = LOAD_CPUS + sum(step.pool.least * step.num_cpus for step in through)
    gpus = sum(step.pool.least * step.num_gpus for step in through)
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        if wanted > there.get(name, 0) + 1e-6:
            raise SettingsError(
                f"the workers set {wanted:g} {name}s aside, and this machine has {there.get(name, 0):g}; see device, "
                "num_cpus and num_gpus of the stages, and the least replicas"
            )
