"""Who may ask, and how often. `deployments.keys` issues keys and reads them; `deployments.http.auth` checks them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from deployments.stage_settings import Section

PerMinute = Annotated[int, Field(ge=1, le=1_000_000)]
_DIGEST = frozenset("0123456789abcdef")


def digest_of(key: bytes) -> str:
    """What is stored of a key: its SHA-256, in hexadecimal.

    A slow hash protects what people choose and others can guess. A key is 256 random bits: there is no list of likely
    ones to try, so one fast hash gives nothing away, and a request does not pay for a slow one.
    """
    return hashlib.sha256(key).hexdigest()


class KeyEntry(Section):
    """One key, without the key itself. `text2mask keys new OWNER` makes it."""

    owner: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$",
            description="Whose it is: a tenant. Image ids and the limit belong to the owner, so two keys of one owner "
            "can stand side by side while one replaces the other.",
        ),
    ]
    sha256: Annotated[
        str, Field(repr=False, description="Of the key: what is stored here opens nothing when somebody reads it.")
    ]
    requests_per_minute: Annotated[
        PerMinute | None,
        Field(description="Of the owner, over all keys. Unset: as `auth.requests_per_minute`; null: no limit."),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.keys() <= cls.model_fields.keys():
            raise ValueError(f"takes {', '.join(cls.model_fields)}")  # what was given may be `KEY: owner`: not shown
        return values

    @field_validator("sha256")
    @classmethod
    def _is_a_digest(cls, value: str) -> str:
        if len(value) != 64 or not _DIGEST.issuperset(value):  # the text never shows it: it may be the key
            raise ValueError("must be 64 hexadecimal digits as `text2mask keys new` prints them, never the key itself")
        return value


class AuthSettings(Section):
    """Keys are wanted unless told otherwise; without a key in the settings nothing starts."""

    mode: Annotated[
        Literal["keys", "none"],
        Field(
            description="`none` lets everybody in who reaches the port: for a port that only this machine reaches. "
            "`text2mask serve` sets it on a loopback address where nothing else is said about `auth`."
        ),
    ] = "keys"
    keys: Annotated[tuple[KeyEntry, ...], Field(description="Hashes of the keys that are let in.")] = ()
    keys_file: Annotated[
        Path | None,
        Field(
            description="YAML or JSON, a list as `keys`, added to them: for a secret that is mounted. Read once, where "
            "the app is built; a change takes effect with the next deployment."
        ),
    ] = None
    requests_per_minute: Annotated[
        PerMinute | None,
        Field(
            description="Of each owner without a number of its own, at each ingress replica: with N replicas N times "
            "as many pass, as they share nothing. None: no limit; admission still bounds what runs at a time."
        ),
    ] = None

    @model_validator(mode="after")
    def _coherent(self) -> AuthSettings:
        if len({entry.sha256 for entry in self.keys}) < len(self.keys):
            raise ValueError("keys: the same key is given twice")
        limits: dict[str, int | None] = {}
        for entry in self.keys:
            if limits.setdefault(entry.owner, self._limit(entry)) != self._limit(entry):
                raise ValueError(f"keys: the entries of {entry.owner} disagree on requests_per_minute")
        return self

    def limits(self) -> dict[str, int]:
        """Requests a minute of each owner that has a limit."""
        limits = {entry.owner: self._limit(entry) for entry in self.keys}
        return {owner: limit for owner, limit in limits.items() if limit is not None}

    def _limit(self, entry: KeyEntry) -> int | None:
        given = "requests_per_minute" in entry.model_fields_set
        return entry.requests_per_minute if given else self.requests_per_minute
