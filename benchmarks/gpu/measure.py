"""One arm of a stage: its answers held against the official ones, then its time and memory."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.models import Scene

Emit = Callable[[dict[str, Any]], None]


@dataclass
class Row:
    """A line of the table.

    Attributes:
        rate: images a second, from the median pass. slowest, fastest: of a pass, the same.
        peak_gb: of GPU memory, with all that the stage holds: the official models and those of earlier arms too.
        difference: from the official answers: largest, as a share of the largest value; of masks the share of pixels.
        error: why there is no rate. note: what our code warned of meanwhile, such as a kernel that it does without.
    """

    stage: str
    arm: str
    batch: int
    rate: float | None = None
    slowest: float | None = None
    fastest: float | None = None
    peak_gb: float | None = None
    difference: float | None = None
    error: str | None = None
    note: str | None = None


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


class Bench:
    """Runs the arms of one stage, and emits a row for each, whatever becomes of it."""

    def __init__(self, scene: Scene, stage: str, emit: Emit) -> None:
        self.scene, self.stage, self._emit = scene, stage, emit
        self.cuda = torch.device(scene.device).type == "cuda"

    def arm(
        self,
        name: str,
        batch: int,
        make: Callable[[], Callable[[], Any]],
        differs: Callable[[Any], float] | None = None,
        tolerance: float = 0.0,
    ) -> bool:
        """Times what `make` returns, a pass over `batch` images; False where it failed or answers otherwise.

        `differs` tells how far a pass's answer is from the official one; beyond `tolerance` nothing is timed.
        """
        row = Row(self.stage, name, batch)
        warnings = _Warnings()
        logging.getLogger("pipeline").addHandler(warnings)
        try:
            self._clean()
            run = make()
            begin = time.perf_counter()
            answer = run()
            first = time.perf_counter() - begin
            if differs is not None:
                row.difference = differs(answer)
                if not row.difference <= tolerance:
                    raise ValueError(f"answers differ by {row.difference:.1e}, more than {tolerance:.0e}")
            del answer
            self._time(row, run, first)
        except Exception as error:  # a scarce run: the other arms go on
            lines = str(error).strip().splitlines()
            row.error = f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
        finally:
            logging.getLogger("pipeline").removeHandler(warnings)
        row.note = " ".join(warnings.said) or None
        self._emit(asdict(row))
        return row.error is None

    def _time(self, row: Row, run: Callable[[], Any], first: float) -> None:
        """A first pass took `first` seconds, with all that only a first one does: enough where nothing is measured."""
        seconds: list[float] = []
        if self.scene.seconds == 0:
            seconds.append(first)
        else:
            run()
        end = time.perf_counter() + self.scene.seconds
        while self.scene.seconds and len(seconds) < 3 or (time.perf_counter() < end and len(seconds) < 200):
            self._wait()
            begin = time.perf_counter()
            run()
            self._wait()
            seconds.append(time.perf_counter() - begin)
        row.rate, row.slowest, row.fastest = (row.batch / one for one in (median(seconds), max(seconds), min(seconds)))
        if self.cuda:
            row.peak_gb = torch.cuda.max_memory_allocated() / 2**30

    def _wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def _clean(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, as a share of the largest value."""
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())
