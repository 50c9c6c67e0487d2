"""What changes in running replicas: Serve's `user_config` of a deployment, laid over the settings it was started with.

Serve calls `reconfigure` of each replica where `user_config` is all that changed in a file, and stops none. What is not
told any more is again as it was at the start: a change never depends on the ones before it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from deployments.admission_settings import AdmissionSettings, Defaults, Limits
from deployments.logs import LOGGER
from deployments.setting_names import SettingsError, unknown
from deployments.stage_settings import Section, StageSettings

logger = logging.getLogger(LOGGER)

OF_STAGES = ("max_batch_size", "max_batch_cost")
OF_INGRESS = ("limits", "admission", "defaults")

S = TypeVar("S", bound=Section)
T = TypeVar("T", bound=StageSettings)


class Changes:
    """A replica's `reconfigure`: the first call, at its start, refuses; a later one leaves what is in force.

    Serve would stop a running replica whose `reconfigure` raises, and the next, which cannot start either.

    Args:
        apply: brings `user_config` into force, all of it or nothing. Raises SettingsError.
    """

    def __init__(self, apply: Callable[[Any], None]) -> None:
        self._apply = apply
        self._started = False

    def take(self, user_config: Any) -> None:
        """Raises SettingsError, the first time only."""
        try:
            self._apply(user_config)
        except SettingsError as error:
            if not self._started:
                raise
            logger.error("What was told to change is refused, and what was in force stays: %s", error)
        else:
            if user_config or self._started:
                logger.info("In force now, beside the settings of the start: %s", dict(user_config))
        self._started = True


class Requests(Section):
    """What an ingress replica holds its requests against."""

    limits: Limits
    admission: AdmissionSettings
    defaults: Defaults
    max_ongoing_requests: int

    def changed(self, told: Any, stages: Mapping[str, Iterable[StageSettings]] | None = None) -> Requests:
        """With what `told`, an ingress's `user_config`, says of `OF_INGRESS`.

        Args:
            stages: sections that it may have beside these, with the settings that they would be laid over.

        Raises:
            SettingsError: a wrong name or value, or one that does not fit the rest.
        """
        sections = named(told, "user_config", (*OF_INGRESS, *(stages or {})))
        for name, settings in (stages or {}).items():
            for one in settings:
                of_stage(one, sections.get(name, {}), f"user_config.{name}")
        own = {name: sections[name] for name in OF_INGRESS if name in sections}
        new = self.model_copy(
            update={name: laid_over(getattr(self, name), values, f"user_config.{name}") for name, values in own.items()}
        )
        if new.admission.max_requests >= self.max_ongoing_requests:
            raise SettingsError(
                "user_config.admission.max_requests must stay below ingress.max_ongoing_requests: "
                "what is to be refused would wait in the router"
            )
        return new


def of_stage(settings: T, told: Any, where: str = "user_config") -> T:
    """`settings` with what `told` says of `OF_STAGES`. Raises SettingsError."""
    return laid_over(settings, told, where, OF_STAGES)


def laid_over(settings: S, told: Any, where: str, names: Collection[str] | None = None) -> S:
    """`settings` with what `told` says of `names`, all of them by default.

    Raises:
        SettingsError: another name, a wrong value, or values that do not fit together; `where` says in what.
    """
    every = type(settings).model_fields
    values = named(told, where, names or every, every)
    try:
        return type(settings).model_validate({**settings.model_dump(), **values})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join([where, *(str(part) for part in fault["loc"])])
        raise SettingsError(f"{place}: {fault['msg'].removeprefix('Value error, ')}") from None


def named(told: Any, where: str, known: Collection[str], fixed: Collection[str] = ()) -> Mapping[str, Any]:
    """`told`, if it is a mapping of `known` names. Raises SettingsError, also for one of `fixed`."""
    if not isinstance(told, Mapping):
        raise SettingsError(f"{where}: must be a mapping")
    for name in told:
        if name not in known:
            why = "only a restart changes this: it belongs into args.settings"
            raise SettingsError(f"{where}.{name}: {why if name in fixed else unknown(str(name), list(known))}")
    return told
