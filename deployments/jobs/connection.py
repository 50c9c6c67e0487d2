"""The Ray that a job runs on."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from deployments.jobs.dataset import Step
from deployments.launch import OBJECT_STORE_BYTES
from deployments.settings import SettingsError


@contextmanager
def connected(address: str | None, through: list[Step]) -> Iterator[None]:
    """The Ray that this process is connected to, or that of the address or of `RAY_ADDRESS`, or one of this job's own.

    Raises:
        SettingsError: nobody is at the address; or, on a Ray of its own, this machine has no room for the pools.
            (Another Ray may grow.)
    """
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own: dict[str, Any] = {}
    if address == "local":
        own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    check_address(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SettingsError(f"no Ray at {address}: {str(error).strip().splitlines()[0]}") from None
    try:
        if address == "local":
            _check_room(through)
        yield
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Raises SettingsError where nobody answers: Ray itself would knock for a minute."""
    if address in ("auto", "local"):  # words of Ray's own
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except ValueError:
        raise SettingsError(f"no Ray at {address!r}: give auto, or HOST:PORT of the head node") from None
    except (OSError, OverflowError):
        raise SettingsError(f"no Ray at {address}: nobody answers there") from None


def _check_room(through: list[Step]) -> None:
    """Ray would wait for what is not there."""
    there = ray.cluster_resources()
    cpus = sum(step.pool.least * step.num_cpus for step in through)
    gpus = sum(step.pool.least * step.num_gpus for step in through)
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        if wanted > there.get(name, 0) + 1e-6:
            raise SettingsError(
                f"the workers set {wanted:g} {name}s aside, and this machine has {there.get(name, 0):g}; see device, "
                "num_cpus and num_gpus of the stages, and the least replicas"
            )
