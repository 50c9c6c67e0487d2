"""Bundles under names of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from pipeline.models.registry import EMBEDDED, Kind


def bundle_copy(kind: Kind, name: str, folder: Path) -> Path:
    """A bundle folder in `folder` that holds the embedded model of `kind` under another name."""
    target = folder / name
    shutil.copytree(EMBEDDED[kind], target)
    content = json.loads((target / "bundle.json").read_text()) | {"name": name}
    (target / "bundle.json").write_text(json.dumps(content))
    return target
