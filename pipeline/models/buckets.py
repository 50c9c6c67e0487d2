"""A model's pass at a few batch sizes, all made ready before the first request: compiled, and on a GPU recorded.

A recorded pass (a CUDA graph) is one launch instead of hundreds, and has fixed shapes: a batch is filled up to the next
size with zeros, whose answers are dropped. Whatever fails while it is made ready, or answers otherwise than the plain
pass, is left out with a warning: then the plain pass runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

BUCKETS = (1, 2, 4, 8)  # larger batches gain nothing more on a large GPU, and run eight at a time
Pass = Callable[[Tensor], Tensor]


class Bucketed:
    """`plain` for batches of any size.

    Args:
        plain: `Bx...` -> `Bx...`, each row on its own; waits for nothing and reads nothing of the host.
        compiled: the same, compiled on its first call for each size; None: `plain`.
        example: `1x...` on the device, what a row looks like.
        tolerance: largest difference from `plain`, as a share of its largest value.
        buckets: batch sizes, rising.
    """

    def __init__(
        self,
        plain: Pass,
        compiled: Pass | None,
        example: Tensor,
        *,
        tolerance: float,
        buckets: Sequence[int] = BUCKETS,
    ) -> None:
        self._plain = plain
        self._runs: dict[int, Pass] = {}
        record = example.is_cuda
        for size in buckets:
            rows = example.repeat(size, *[1] * (example.dim() - 1))
            expected = plain(rows)
            run = plain
            if compiled is not None:
                if _agrees("compiled", compiled, rows, expected, tolerance):
                    run = compiled
                else:
                    compiled = None
            if record:
                recorded = _recorded(run, rows)
                record = recorded is not None and _agrees("recorded", recorded, rows, expected, tolerance)
                run = recorded if record and recorded is not None else run
            self._runs[size] = run

    def __call__(self, rows: Tensor) -> Tensor:
        """As `plain`."""
        if all(run is self._plain for run in self._runs.values()):  # nothing that would want a fixed size
            return self._plain(rows)
        parts = [self._filled(part) for part in rows.split(max(self._runs))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _filled(self, rows: Tensor) -> Tensor:
        count = len(rows)
        size = min(bucket for bucket in self._runs if bucket >= count)
        if size > count:
            rows = torch.cat((rows, rows.new_zeros(size - count, *rows.shape[1:])))
        return self._runs[size](rows)[:count]


def up_to(batch: int) -> list[int]:
    """The buckets that batches of at most `batch` rows need."""
    return [size for size in BUCKETS if size < 2 * batch]


def _agrees(name: str, run: Pass, rows: Tensor, expected: Tensor, tolerance: float) -> bool:
    try:
        off = float((run(rows) - expected).abs().max() / expected.abs().max())
    except Exception as error:  # of compilers and drivers: anything
        logger.warning("The model runs as it is, not %s: %s", name, _first_line(error))
        return False
    if not off <= tolerance:
        logger.warning("The model runs as it is, not %s: its answers were off by %.1e.", name, off)
    return off <= tolerance


def _recorded(run: Pass, rows: Tensor) -> Pass | None:
    try:
        return _Recording(run, rows)
    except Exception as error:
        logger.warning("The model runs as it is, not recorded: %s", _first_line(error))
        return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


class _Recording:
    """`run` at one batch size, as a CUDA graph."""

    def __init__(self, run: Pass, rows: Tensor) -> None:
        self._rows = rows.clone()
        self._device = rows.device
        with torch.cuda.device(self._device):
            aside = torch.cuda.Stream(self._device)
            aside.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(aside):  # libraries allocate on their first calls, which must not be recorded
                for _ in range(3):
                    run(self._rows)
            torch.cuda.current_stream(self._device).wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._answer = run(self._rows)

    def __call__(self, rows: Tensor) -> Tensor:
        with torch.cuda.device(self._device):
            self._rows.copy_(rows)
            self._graph.replay()
            return self._answer.clone()  # the next replay writes there
