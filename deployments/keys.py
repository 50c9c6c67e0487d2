"""Issuing keys, and gathering those that the settings name."""

from __future__ import annotations

import logging
import secrets
import stat
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from deployments.auth_settings import AuthSettings, KeyEntry, digest_of
from deployments.logs import LOGGER
from deployments.settings import SettingsError

logger = logging.getLogger(LOGGER)

PREFIX = "t2m_"  # so that scanners for leaked secrets, and people, know one when they see it
RANDOM_BYTES = 32


def issue(owner: str) -> tuple[str, KeyEntry]:
    """A new key, and what the settings hold of it. The key itself is kept nowhere.

    Raises:
        SettingsError: `owner` is no name that the settings take.
    """
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    try:
        return key, KeyEntry(owner=owner, sha256=digest_of(key.encode()))
    except ValidationError:
        raise SettingsError(
            "an owner is 1 to 64 of the letters A to Z, digits and . _ @ -, and begins with a letter or a digit"
        ) from None


def gather(auth: AuthSettings) -> AuthSettings:
    """`auth` with the keys of its file among its keys: what a replica gets, which has no such file.

    Raises:
        SettingsError: the file cannot be read or is not such a list, or there is no key though the mode wants one.
    """
    if auth.mode == "keys" and auth.keys_file is not None:
        given = auth.model_dump(exclude_unset=True)
        keys = [*given.get("keys", ()), *_read(auth.keys_file)]
        try:
            auth = AuthSettings.model_validate({**given, "keys": keys, "keys_file": None})
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, fault["loc"]))
            text = fault["msg"].removeprefix("Value error, ")
            raise SettingsError(f"auth with {auth.keys_file}: {where}{': ' if where else ''}{text}") from None
    check(auth)
    return auth


def check(auth: AuthSettings) -> None:
    """Raise SettingsError where keys are wanted and there are none."""
    if auth.mode == "keys" and not auth.keys:
        raise SettingsError(
            "auth: there are no keys. Make one with `text2mask keys new OWNER >> keys.yaml` and set "
            "auth.keys_file=keys.yaml (`text2mask serve --keys-file keys.yaml`), or, where only this machine reaches "
            "the port, auth.mode=none"
        )


def _read(path: Path) -> list[Any]:
    import yaml

    try:
        mode = path.stat().st_mode
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"auth.keys_file: {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: not UTF-8, or a date that is none
        raise SettingsError(f"auth.keys_file: {path}: not valid YAML or JSON") from None
    if not isinstance(content, list):
        raise SettingsError(f"auth.keys_file: {path}: must be a list of owner and sha256")
    if mode & stat.S_IWOTH:  # everybody on that machine could let themselves in
        raise SettingsError(f"auth.keys_file: {path}: anybody may write it; chmod o-w {path}")
    if mode & stat.S_IROTH:
        logger.warning("auth.keys_file: anybody on this machine may read %s. Keys are not in it, owners are.", path)
    return content
