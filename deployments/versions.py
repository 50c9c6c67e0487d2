"""Which deployments a changed file replaces: those that would be given something else, and no others.

Serve calls what it compares a version, gives all deployments of an application the same one, a hash of all `args`, and
replaces every replica whose version is another. New weights for one detector would so restart every image encoder and
empty its cache. Here each deployment's version is a hash of what its own replicas are given. What Serve compares by
itself is not in it: options of the actor, `runtime_env` among them, replace replicas, and numbers of them do not.

Whether a stage scales by load at all is in it, and nothing else of its scale: a replica of Serve tells the autoscaler
of its load only if it was to do so when it started.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, PrivateAttr
from ray.serve import Application
from ray.serve._private.config import DeploymentConfig

from deployments.auth_settings import KeyEntry
from deployments.stage_settings import Replicas
from pipeline import __version__


class OwnVersion(DeploymentConfig):
    """A deployment's options, which tell the controller a version of their own and not the application's."""

    _own: str = PrivateAttr("")

    @classmethod
    def of(cls, config: DeploymentConfig, version: str) -> OwnVersion:
        """`config` with this version."""
        own = cls(**{name: getattr(config, name) for name in DeploymentConfig.model_fields})
        own._own = version
        return own

    def to_proto(self) -> Any:
        """What is sent to the controller."""
        proto = DeploymentConfig.to_proto(self)
        proto.version = self._own
        return proto


def version_of(kind: type, arguments: tuple[Any, ...]) -> str:
    """Of replicas that are `kind(*arguments)`. Equal arguments, read from whatever file, have equal versions."""
    told = [__version__, f"{kind.__module__}.{kind.__qualname__}", [_plain(argument) for argument in arguments]]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """`value` as JSON takes it, without what a replica does not read. Raises TypeError for what nobody thought of."""
    if isinstance(value, float) and value.is_integer():  # a default of 120 is what a file's 120.0 is
        return int(value)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return [[_plain(name), _plain(one)] for name, one in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, Application):  # a handle: it leads to whatever has this name
        return value._bound_deployment.name
    if isinstance(value, Replicas):  # placement and number are Serve's to compare
        scales = ["scales", value.autoscaling is not None]
        return [scales, *([name, _plain(getattr(value, name))] for name in _read(type(value)))]
    if isinstance(value, KeyEntry):  # with what was said at all: a key without a limit is not one that has none
        return [sorted(value.model_fields_set), value.model_dump()]
    if isinstance(value, BaseModel):
        return [[name, _plain(getattr(value, name))] for name in type(value).model_fields]
    if is_dataclass(value):
        return [[field.name, _plain(getattr(value, field.name))] for field in fields(value)]
    raise TypeError(f"{type(value).__qualname__}: it is not known how two of these compare")


def _read(kind: type[Replicas]) -> list[str]:
    """The settings that a replica of a stage looks at."""
    return [name for name in kind.model_fields if name not in Replicas.model_fields]
