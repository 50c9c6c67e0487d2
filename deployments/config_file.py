"""Reading a Serve YAML for `text2mask serve --config`: the same file that `serve deploy` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.setting_names import nearest
from deployments.settings import SettingsError

_TOP = {"proxy_location", "http_options", "applications"}
_HTTP = {"host", "port", "keep_alive_timeout_s"}
_APPLICATION = {"name", "route_prefix", "import_path", "args", "deployments"}
_DEPLOYMENT = {"name", "user_config"}


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """`args` of the app builder, `user_config` by deployment, and Serve's own `http_options`."""

    args: dict[str, Any] = field(default_factory=dict)
    in_place: dict[str, Any] = field(default_factory=dict)
    http_options: dict[str, Any] = field(default_factory=dict)


def read(path: Path) -> ConfigFile:
    """What `path` says. What it says and this cannot do is refused, not ignored.

    Raises:
        SettingsError: no such file, no valid YAML, or a key that only `serve deploy` honours.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: not UTF-8, or a date that is none
        raise SettingsError(f"{path}: not valid YAML") from None
    whole = _mapping(content, _TOP, f"{path}")
    applications = whole.get("applications")
    if not isinstance(applications, list) or len(applications) != 1:
        raise SettingsError(f"{path}: applications must list exactly one application")
    application = _mapping(applications[0], _APPLICATION, f"{path}: applications[0]")
    if application.get("import_path") != "deployments.app:build_app":
        raise SettingsError(f"{path}: import_path must be deployments.app:build_app")
    if application.get("route_prefix", "/") != "/":
        raise SettingsError(f"{path}: route_prefix must be /")
    if whole.get("proxy_location") == "Disabled":
        raise SettingsError(f"{path}: proxy_location must not be Disabled: nothing would listen")
    args = application.get("args") or {}
    if not isinstance(args, Mapping):
        raise SettingsError(f"{path}: args must be a mapping")
    deployments = application.get("deployments")
    return ConfigFile(
        dict(args),
        _in_place([] if deployments is None else deployments, f"{path}: deployments"),
        _http_options(whole.get("http_options") or {}, f"{path}: http_options"),
    )


def _in_place(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, list):
        raise SettingsError(f"{where}: must be a list")
    found: dict[str, Any] = {}
    for number, one in enumerate(value):
        deployment = _mapping(one, _DEPLOYMENT, f"{where}[{number}]")
        name = deployment.get("name")
        if not isinstance(name, str) or name in found:
            raise SettingsError(f"{where}[{number}]: name must be a text, and of one deployment only")
        found[name] = {} if deployment.get("user_config") is None else deployment["user_config"]
    return found


def _http_options(value: Any, where: str) -> dict[str, Any]:
    options = dict(_mapping(value, _HTTP, where))
    if not isinstance(options.get("host", ""), str):
        raise SettingsError(f"{where}: host must be a text")
    if type(options.get("port", 1)) is not int or not 1 <= options.get("port", 1) <= 65535:
        raise SettingsError(f"{where}: port must be an integer from 1 to 65535")
    return options


def _mapping(value: Any, known: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SettingsError(f"{where}: must be a mapping")
    for name in value:
        if name not in known:
            near = nearest(str(name), sorted(known))
            hint = f"did you mean {near}? `serve deploy` may know it" if near else "`serve deploy` may"
            raise SettingsError(f"{where}: text2mask serve does not know {name!r}; {hint}")
    return value
