"""What the files are called that answers become, for commands and jobs alike; see `deployments.cli.outputs`."""

from __future__ import annotations

import re
from collections.abc import Sequence

ENDINGS = {"json": ".json", "overlay": ".overlay.png", "masks": ".masks"}
"""Of the forms that have a file, or a folder, for each picture: what is added to its name."""

WHOLE = {"jsonl": "answers.jsonl", "coco": "instances.json"}
"""Of the forms that have one file for all pictures: its name."""


def mask_names(labels: Sequence[str]) -> list[str]:
    """The names of the instances' PNGs, in order: number and label, of which letters and digits of any script stay."""
    plain = ("".join(one if one.isalnum() else "_" for one in label)[:40] for label in labels)
    return [f"{number:03}-{label}.png" for number, label in enumerate(plain)]


def is_mask_name(name: str) -> bool:
    """Whether a file in a folder of masks is one of ours, which a new answer replaces."""
    return re.fullmatch(r"\d{3,}-\w*\.png", name) is not None
