"""What the options of `eval` mean together: what a query gets, where files go, and the protocol in words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from deployments.cli.complaints import UsageError


def query_fields(mode: str, own: dict[str, Any], max_detections: int | None) -> dict[str, Any]:
    """What a query gets. Raises UsageError for options that raw mode does not know."""
    if mode == "raw":
        for name, value in own.items():
            if value is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} is of --mode served; raw mode has no thresholds and no NMS"
                )
        return {"raw": True, "max_detections": max_detections or 300}
    own = {"nms": "class", "nms_threshold": 0.7} | {name: value for name, value in own.items() if value is not None}
    return {**own, "raw": False, "max_detections": max_detections or 100}


def export_targets(export: Path | None, json_file: Path | None, overwrite: bool) -> dict[str, Path]:
    """The files of detections, by kind. Raises UsageError where a file would be lost."""
    targets = (
        {} if export is None else {kind: export.with_name(f"{export.name}.{kind}.json") for kind in ("bbox", "segm")}
    )
    for path in [*targets.values(), *([] if json_file is None else [json_file])]:
        if os.path.lexists(path) and not overwrite:
            raise UsageError(f"{path}: there already. --overwrite replaces what is there")
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder {path.parent}")
    return targets


def in_words(mode: str, fields: dict[str, Any]) -> str:
    most = fields["max_detections"]
    if mode == "raw":
        words = (
            f"raw, as published: the best {most} pairs of a box and a class of each image, by the class's mean token "
        )
        words += "probability; no thresholds, no NMS"
    else:
        box, text = (fields.get(f"{name}_threshold", "the model's own") for name in ("box", "text"))
        nms = "off" if fields["nms"] == "off" else f"{fields['nms']} above {fields['nms_threshold']}"
        words = f"as served: box threshold {box}, text threshold {text}, NMS {nms}, at most {most} instances an image; "
        words += "ranked by the highest token probability"
    return words + ("; the best of SAM's three masks" if fields["multimask"] else "")
