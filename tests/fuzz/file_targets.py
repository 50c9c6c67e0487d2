"""What reads the operator's files in `deployments/`, each as a function of bytes; see `pipeline_targets`.

They are trusted; but a mistake in one must be told in words.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from deployments.auth_settings import AuthSettings
from deployments.config_file import read
from deployments.keys import gather
from deployments.settings import SettingsError

_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def keys_file(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=_MEMORY) as file:
        os.write(file.fileno(), data)
        try:
            auth = gather(AuthSettings(keys_file=Path(file.name)))
        except SettingsError:
            return
    assert auth.keys
    assert all(len(entry.sha256) == 64 for entry in auth.keys)


def config_file(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=_MEMORY) as file:
        os.write(file.fileno(), data)
        try:
            found = read(Path(file.name))
        except SettingsError:
            return
    assert isinstance(found.args, dict)
    assert found.http_options.keys() <= {"host", "port", "keep_alive_timeout_s"}
