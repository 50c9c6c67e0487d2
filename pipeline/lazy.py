"""Names of a package that load their module when they are first used, so that importing the package stays cheap."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

_OURS = ("pipeline", "deployments")


def lazy(package: str, home: Mapping[str, str], extras: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__`.

    Args:
        package: its name.
        home: the module of each name.
        extras: of the installation, which these modules need: what is told where one of them cannot load another's.
    """

    def getattribute(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(home[name]), name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in _OURS:  # a fault of ours, not of the installation
                raise
            message = f"{error.msg}; pip install 'text2mask[{extras}]'"
            raise ModuleNotFoundError(message, name=error.name) from error
        vars(sys.modules[package])[name] = value  # the next look-up finds it without coming here
        return value

    return getattribute, lambda: sorted({*vars(sys.modules[package]), *home})
