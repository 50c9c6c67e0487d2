"""Draws training batches in worker processes, ahead of the training step, in a reproducible order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import Empty
from typing import Any

import torch.multiprocessing as mp

MakeBatch = Callable[[int], Any]
"""From a step number to a batch of CPU tensors; must be picklable and depend on the step alone."""

_AHEAD = 4  # batches that a worker keeps ready


def _work(make: MakeBatch, queue: Any, steps: range) -> None:
    for step in steps:
        queue.put(make(step))
    queue.join()  # tensors in shared memory live as long as the process that made them


def batches(make: MakeBatch, steps: range, workers: int) -> Iterator[tuple[int, Any]]:
    """Yields `(step, make(step))` for every step in order; with no workers, in this process."""
    if workers == 0:
        for step in steps:
            yield step, make(step)
        return
    context = mp.get_context("spawn")
    queues = [context.JoinableQueue(_AHEAD) for _ in range(workers)]
    processes = [
        context.Process(target=_work, args=(make, queues[i], steps[i::workers]), daemon=True) for i in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        for number, step in enumerate(steps):
            queue = queues[number % workers]
            yield step, _next(queue, processes[number % workers])
            queue.task_done()
    finally:
        for process in processes:
            process.terminate()


def _next(queue: Any, process: Any) -> Any:
    while True:
        try:
            return queue.get(timeout=5)
        except Empty:
            if not process.is_alive():
                raise RuntimeError("a process that draws batches has died") from None
