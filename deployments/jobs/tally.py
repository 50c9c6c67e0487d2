"""What a job has done so far, counted by the driver as rows come back."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from deployments.jobs.busy import Reading

RATE_S = 60.0  # over which the present rate is taken

# Of the steps of a stage, the one that only one thread does: where it is always busy, more replicas help.
_MODEL = "forward"


@dataclass(frozen=True, slots=True)
class StageTimes:
    """One stage of a job, over all its replicas.

    Attributes:
        replicas: that have answered so far.
        busy: share of the time that their models computed, 0 to 1, since they were warm.
        items: that went through it.
        seconds: by step: `prepare` and `finish` in CPU threads, `forward` in the model.
    """

    replicas: int
    busy: float
    items: int
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is.

    Attributes:
        total: images in the input.
        earlier: of them, those that the output had already.
        done: by this run, failed ones too.
        errors: by code, of this run.
        instances: found by this run.
        elapsed_s: since the run began.
        rate: images a second, over the last minute.
        eta_s: seconds to go at that rate; None where there is none yet.
        failed: images of the output that have an error, those of earlier runs included.
    """

    total: int
    earlier: int
    done: int
    errors: dict[str, int]
    instances: int
    elapsed_s: float
    rate: float
    eta_s: float | None
    failed: int
    stages: dict[str, StageTimes]

    def to_json(self) -> dict[str, Any]:
        stages = {
            name: {
                "replicas": one.replicas,
                "busy": round(one.busy, 3),
                "items": one.items,
                "seconds": {step: round(spent, 2) for step, spent in one.seconds.items()},
            }
            for name, one in self.stages.items()
        }
        return {
            "total": self.total,
            "earlier": self.earlier,
            "done": self.done,
            "errors": self.errors,
            "instances": self.instances,
            "elapsed_s": round(self.elapsed_s, 1),
            "rate": round(self.rate, 2),
            "eta_s": None if self.eta_s is None else round(self.eta_s),
            "failed": self.failed,
            "stages": stages,
        }


@dataclass(slots=True)
class Tally:
    """Counts rows. `failed`: those with an error that the output keeps. `clock`: seconds, of any origin."""

    total: int
    earlier: int = 0
    failed: int = 0
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    instances: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    _begin: float = field(init=False)
    _recent: deque[tuple[float, int]] = field(init=False)
    _last: dict[tuple[str, str], Reading] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begin = self.clock()
        self._recent = deque([(self._begin, 0)])

    def add(self, rows: pa.Table) -> None:
        """Rows of `deployments.jobs.halves.DONE`."""
        self.done += len(rows)
        codes = pc.struct_field(rows["error"], "code").drop_null()
        self.errors.update(codes.to_pylist())
        self.failed += len(codes)
        self.instances += pc.sum(pc.list_value_length(rows["detections"])).as_py() or 0
        now = self.clock()
        self._recent.append((now, self.done))
        while len(self._recent) > 2 and self._recent[1][0] < now - RATE_S:
            self._recent.popleft()
        for kind in ("detector", "segmenter"):
            for text in rows[f"{kind}_reading"].drop_null().to_pylist():
                reading = Reading.parse(text)
                last = self._last.get((kind, reading.worker), reading)
                self._last[kind, reading.worker] = max(last, reading, key=lambda one: one.time)

    def began(self) -> float:
        """When the first model was warm, Unix time in seconds. Raises ValueError before a row is there."""
        return min(one.since for one in self._last.values())

    def progress(self) -> Progress:
        """As of now."""
        now = self.clock()
        since, before = self._recent[0]
        rate = (self.done - before) / (now - since) if now > since else 0.0
        left = self.total - self.earlier - self.done
        return Progress(
            total=self.total,
            earlier=self.earlier,
            done=self.done,
            errors=dict(self.errors.most_common()),
            instances=self.instances,
            elapsed_s=now - self._begin,
            rate=rate,
            eta_s=left / rate if rate else None,
            failed=self.failed,
            stages=self._stages(),
        )

    def _stages(self) -> dict[str, StageTimes]:
        found: dict[str, list[Reading]] = {}
        for (kind, _), last in self._last.items():
            names = ("detector",) if kind == "detector" else ("image_encoder", "mask_decoder")
            for name in names:
                found.setdefault(name, []).append(last)
        times = {name: _times(name, readings) for name, readings in found.items()}
        return {name: one for name, one in times.items() if one.seconds}  # what had nothing to do is none


def _times(stage: str, workers: list[Reading]) -> StageTimes:
    spans = sum(one.time - one.since for one in workers)
    seconds: Counter[str] = Counter()
    for one in workers:
        seconds.update(one.seconds.get(stage, {}))
    busy = seconds[_MODEL]
    items = sum(one.items.get(stage, 0) for one in workers)
    return StageTimes(len(workers), min(1.0, busy / spans) if spans > 0 else 0.0, int(items), dict(seconds))
