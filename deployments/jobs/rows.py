"""One row an image: what a job writes of it, and how that is read again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.formats.answer import number
from pipeline.result import Result
from pipeline.stages import RLE

STEPS = ("negatives", "nms", "area", "cap")
TIMES = ("load", "detect", "encode", "masks", "total")

DETECTION = pa.struct(
    [
        ("class_id", pa.int32()),
        ("label", pa.string()),
        ("score", pa.float32()),
        ("text_score", pa.float32()),
        ("box", pa.list_(pa.float32())),
        ("mask", pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])),
        ("mask_score", pa.float32()),
        ("area", pa.int32()),
    ]
)
RESULTS = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("prompt", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("detections", pa.list_(DETECTION)),
        ("passes", pa.int32()),
        ("removed", pa.struct([(step, pa.int32()) for step in STEPS])),
        ("warnings", pa.list_(pa.string())),
        ("timings_ms", pa.struct([(name, pa.float32()) for name in TIMES])),
        ("error", pa.struct([("code", pa.string()), ("message", pa.string())])),
    ]
)
"""The output's columns. Without masks, `mask`, `mask_score` and `area` are null; in a row with an error, all between
`prompt` and `timings_ms` is; in any other, `error` is."""


@dataclass(frozen=True, slots=True)
class RowError:
    """Why an image has no result: `code` for programs, `message` for people."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


@dataclass(frozen=True, slots=True)
class Row:
    """What an output says of one image.

    Attributes:
        id: 32 hexadecimal digits, of path, prompt and occurrence.
        path: where the image lies, or `MANIFEST#row`.
        prompt: the text, or a list of classes as JSON.
        result: None where there is an error.
        error: None where there is a result.
        timings_ms: milliseconds of `load`, `detect`, `encode`, `masks` and `total`, of those that took place.
    """

    id: str
    path: str
    prompt: str
    result: Result | None
    error: RowError | None
    timings_ms: Mapping[str, float] = field(default_factory=dict)


def result_row(id: str, path: str, prompt: str, result: Result, timings_ms: Mapping[str, float]) -> dict[str, Any]:
    """A row of `RESULTS`, for `pyarrow.Table.from_pylist(rows, RESULTS)`.

    Args:
        prompt: as in the work: canonical JSON of a text or a list.
        timings_ms: milliseconds by stage; other names than `TIMES` are left out.
    """
    height, width = result.image_size
    return {
        **_frame(id, path, prompt, timings_ms),
        "width": width,
        "height": height,
        "detections": [_detection(result, index) for index in range(len(result))],
        "passes": result.passes,
        "removed": {step: result.removed.get(step, 0) for step in STEPS},
        "warnings": list(result.warnings),
    }


def error_row(
    id: str, path: str, prompt: str, code: str, message: str, timings_ms: Mapping[str, float]
) -> dict[str, Any]:
    """The row of an image that has no result; arguments as in `result_row`."""
    return {**_frame(id, path, prompt, timings_ms), "error": {"code": code, "message": message}}


def read_row(row: Mapping[str, Any], model: str) -> Row:
    """A row, as `to_pylist` gives it. Its result equals the one that went in.

    As after `Result.from_json`: nothing tells whether masks were asked for where nothing was found, and an image
    without detections has an empty list of masks.

    Args:
        model: `"detector+segmenter"`, by which the output was made.
    """
    times = {name: number(np.float32(ms)) for name, ms in (row["timings_ms"] or {}).items() if ms is not None}
    error = None if row["error"] is None else RowError(row["error"]["code"], row["error"]["message"])
    result = None if error is not None else _result(row, model, times)
    return Row(row["id"], row["path"], row["prompt"], result, error, times)


def _frame(id: str, path: str, prompt: str, timings_ms: Mapping[str, float]) -> dict[str, Any]:
    wanted = json.loads(prompt)
    shown = wanted if isinstance(wanted, str) else prompt
    return {"id": id, "path": path, "prompt": shown, "timings_ms": {name: timings_ms.get(name) for name in TIMES}}


def _detection(result: Result, index: int) -> dict[str, Any]:
    rle = None if result.rles is None else result.rles[index]
    return {
        "class_id": int(result.class_ids[index]),
        "label": result.labels[index],
        "score": float(result.scores[index]),
        "text_score": float(result.text_scores[index]),
        "box": result.boxes[index].tolist(),
        "mask": None if rle is None else {"size": list(rle.size), "counts": rle.counts},
        "mask_score": None if result.mask_scores is None else float(result.mask_scores[index]),
        "area": None if result.areas is None else int(result.areas[index]),
    }


def _result(row: Mapping[str, Any], model: str, times: Mapping[str, float]) -> Result:
    found = row["detections"]
    masked = all(one["mask"] is not None for one in found)
    return Result(
        image_size=(row["height"], row["width"]),
        labels=tuple(one["label"] for one in found),
        class_ids=np.array([one["class_id"] for one in found], np.int32),
        scores=_floats(one["score"] for one in found),
        text_scores=_floats(one["text_score"] for one in found),
        boxes=np.array([one["box"] for one in found], np.float32).reshape(-1, 4),
        rles=tuple(_rle(one["mask"]) for one in found) if masked else None,
        mask_scores=_floats(one["mask_score"] for one in found) if masked else None,
        areas=np.array([one["area"] for one in found], np.int32) if masked else None,
        model=model,
        timings_ms=times,
        passes=row["passes"],
        removed=row["removed"],
        warnings=tuple(row["warnings"]),
    )


def _rle(mask: Mapping[str, Any]) -> RLE:
    height, width = mask["size"]
    return RLE((height, width), mask["counts"])


def _floats(values: Iterable[float]) -> Any:
    return np.array([*values], np.float32)
