"""Batching policies beside each other: `python -m benchmarks.batching`. No cluster; Ray's own queue, run as it is.

A forward pass is a sleep of `a + b * n` for n items, so the answer is the policy's and not the machine's; a stage
prepares each item in a pool of two threads before. Four tables:

- open load (Poisson, timed from the intended send) at 30, 70 and 130 % of what full batches can do: `Batcher` beside
  `@serve.batch` with three wait timeouts. At 130 % at most 32 items are admitted at a time, as the service does; the
  others are refused, and not counted.
- prepare: how full batches are at 130 % where the pool is nearly as busy as the model.
- deadlines: the same at 130 % with a queue without that bound, and callers who give up: how many are answered in time,
  with and without leaving out what would be late.
- parts: the embedded mask decoder; p50 and p95 of one box, alone and beside a request of 300, by the size of a part.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import mean, median
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from rich.console import Console
from rich.table import Table

from deployments.forward_times import ForwardTimes
from deployments.stage_runner import StageRunner
from deployments.stage_settings import MaskDecoderSettings, StageSettings
from pipeline.errors import StageError

A, B, SIZE = 0.010, 0.005, 8  # seconds of a pass, seconds of each item in it, items at most
CAPACITY = SIZE / (A + B * SIZE)
ADMITTED = 32
PREPARE = 0.002  # seconds of CPU work before: of a small JPEG

Submit = Callable[[int, float | None], Awaitable[Any]]


@dataclass
class Run:
    """What one arm did at one load."""

    waits: list[float] = field(default_factory=list)  # seconds from the intended send to the answer
    fills: list[float] = field(default_factory=list)  # of passes in the middle of the run
    late: int = 0
    refused: int = 0
    span: float = 0.0

    def row(self) -> tuple[float, float, float, float]:
        """Items a second, p50 and p95 in ms, mean fill in percent."""
        p50, p95 = (1000 * float(np.percentile(self.waits, q)) for q in (50, 95))
        return len(self.waits) / self.span, p50, p95, 100 * mean(self.fills or [0.0])


class FakeStage:
    """`prepare` and `forward` of known cost; the pool is StageRunner's."""

    def __init__(self, prepare_s: float = PREPARE) -> None:
        self.sizes: list[int] = []
        self._prepare_s = prepare_s

    def prepare(self, item: int) -> int:
        time.sleep(self._prepare_s)
        return item

    def batch_key(self, item: int) -> None:
        return

    def cost(self, item: int) -> int:
        return 1

    def forward(self, batch: Sequence[int]) -> list[int]:
        self.sizes.append(len(batch))
        time.sleep(A + B * len(batch))
        return list(batch)

    def finish(self, item: int, raw: int) -> int:
        return raw


async def open_load(
    submit: Submit, sizes: list[int], share: float, count: int, patience: float | None, seed: int
) -> Run:
    """Sends `count` items at `share` of the capacity; `patience` is how long callers wait, in seconds, or None."""
    run, rng = Run(), random.Random(seed)
    begin = time.perf_counter()
    gaps = [rng.expovariate(share * CAPACITY) for _ in range(count)]
    under_way = 0

    async def one(item: int, sent: float) -> None:
        nonlocal under_way
        if patience is None and under_way >= ADMITTED:
            run.refused += 1
            return
        under_way += 1
        try:
            deadline = None if patience is None else time.time() + patience
            await submit(item, deadline)
            waited = time.perf_counter() - sent
            if patience is not None and waited > patience:
                run.late += 1
            else:
                run.waits.append(waited)
        except StageError:
            run.late += 1
        finally:
            under_way -= 1

    sent, tasks = begin, []
    for item, gap in enumerate(gaps):
        sent += gap
        await asyncio.sleep(max(0.0, sent - time.perf_counter()))
        tasks.append(asyncio.create_task(one(item, sent)))
    first, last = len(sizes) // 4, len(sizes)  # without the start, and without the end, where no new ones come
    await asyncio.gather(*tasks)
    run.span = time.perf_counter() - begin
    run.fills = [size / SIZE for size in sizes[first:last]]
    return run


def ours(share: float, count: int, seed: int, patience: float | None = None, prepare_s: float = PREPARE) -> Run:
    async def run() -> Run:
        stage = FakeStage(prepare_s)
        runner: StageRunner[int, int, int] = StageRunner(stage, StageSettings(max_batch_size=SIZE))

        async def submit(item: int, deadline: float | None) -> int:
            return await runner.run(lambda: stage.prepare(item), deadline)

        found = await open_load(submit, stage.sizes, share, count, patience, seed)
        await runner.close()
        return found

    return asyncio.run(run())


def serves(timeout: float) -> Callable[[float, int, int], Run]:
    """`@serve.batch` with a `batch_wait_timeout_s`; the work is in threads as ours is."""

    def arm(share: float, count: int, seed: int) -> Run:
        from ray import serve

        async def run() -> Run:
            stage = FakeStage()
            loop = asyncio.get_running_loop()

            # `pool` and `model` are there when the first item comes.
            @serve.batch(max_batch_size=SIZE, batch_wait_timeout_s=timeout)
            async def handle(items: list[int]) -> list[int]:
                return await loop.run_in_executor(model, stage.forward, items)

            async def submit(item: int, deadline: float | None) -> int:
                await loop.run_in_executor(pool, stage.prepare, item)
                return await handle(item)

            # All that the queue asks of a replica is this number, for a warning.
            limits = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=2 * ADMITTED))
            fake = mock.patch.object(serve, "get_replica_context", lambda: limits)
            with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(1) as model, fake:
                return await open_load(submit, stage.sizes, share, count, None, seed)

        return asyncio.run(run())

    return arm


def policies(rounds: int, count: int, console: Console) -> None:
    arms: dict[str, Callable[[float, int, int], Run]] = {"Batcher": ours}
    arms |= {f"@serve.batch, {ms} ms": serves(ms / 1000) for ms in (0, 10, 50)}
    table = Table(
        title=f"{A * 1000:g} + {B * 1000:g} n ms a pass, n <= {SIZE}: {CAPACITY:.0f} items/s; {rounds} rounds"
    )
    for column in ("load", "", "items/s", "p50, ms", "p95, ms", "fill, %"):
        table.add_column(column, justify="left" if column in ("load", "") else "right")
    for share in (0.3, 0.7, 1.3):
        rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in arms}
        for number in range(rounds):
            for name, arm in arms.items():
                rows[name].append(arm(share, count, number).row())
        for name, found in rows.items():
            middle = [f"{median(column):.0f}" for column in zip(*found, strict=True)]
            table.add_row(f"{share:.0%}", name, *middle)
    console.print(table)


def preparing(rounds: int, count: int, console: Console) -> None:
    table = Table(title="130 % load, two threads that prepare")
    for column in ("prepare, ms", "pool's capacity, % of the model's", "items/s", "fill, %"):
        table.add_column(column, justify="right")
    for prepare_s in (0.002, 0.008, 0.011):
        found = [ours(1.3, count, number, prepare_s=prepare_s).row() for number in range(rounds)]
        middle = [median(column) for column in zip(*found, strict=True)]
        pool = 100 * 2 / prepare_s / CAPACITY
        table.add_row(f"{prepare_s * 1000:.0f}", f"{pool:.0f}", f"{middle[0]:.0f}", f"{middle[3]:.0f}")
    console.print(table)


def deadlines(rounds: int, count: int, console: Console) -> None:
    patience = 0.5
    table = Table(title=f"callers wait {patience:g} s, 130 % load, unbounded queue: answered in time, % of capacity")
    table.add_column("")
    table.add_column("in time", justify="right")
    shares: dict[str, list[float]] = {"left out where it would be late": [], "dropped once it is late": []}
    for number in range(rounds):
        for name, found in shares.items():
            with mock.patch.object(
                ForwardTimes, "quickest", (lambda *_: 0.0) if "once" in name else ForwardTimes.quickest
            ):
                run = ours(1.3, 2 * count, number, patience)
            found.append(100 * len(run.waits) / run.span / CAPACITY)
    for name, found in shares.items():
        table.add_row(name, f"{median(found):.0f} ({min(found):.0f}-{max(found):.0f})")
    console.print(table)


def parts(rounds: int, console: Console) -> None:
    """One box every 100 ms, for as long as a request of 300 boxes runs."""
    import torch

    from pipeline.bundle import resolve
    from pipeline.mask_decoder import MaskDecoder
    from pipeline.stages import DecodeOptions, Embedding, MaskPrompts, Masks

    torch.set_num_threads(1)
    decoder = MaskDecoder.from_bundle(resolve("tiny", "segmenter"))
    side, rng = decoder.arch.embedding_size, np.random.default_rng(0)
    features = rng.normal(size=(decoder.arch.out_chans, side, side)).astype(np.float32)
    embedding = Embedding(features, input_size=(288, 384), image_size=(1200, 1600))
    corners = np.sort(rng.uniform(0, 1200, (300, 2, 2)), 1).reshape(300, 4).astype(np.float32)

    async def run(most: int | None, *, large: bool) -> tuple[float, list[float]]:
        settings = MaskDecoderSettings(max_batch_cost=most)
        runner: StageRunner[Any, Any, Masks] = StageRunner(decoder, settings)

        def call(count: int) -> Awaitable[Masks]:
            prompts = MaskPrompts(boxes=corners[:count])
            return runner.run(lambda: decoder.prepare(embedding, prompts, DecodeOptions()), None)

        await call(1)
        waits: list[float] = []
        begin = time.perf_counter()
        task = asyncio.ensure_future(call(300)) if large else None
        took = 0.0
        small: list[asyncio.Task[None]] = []

        async def one() -> None:
            sent = time.perf_counter()
            await call(1)
            waits.append(time.perf_counter() - sent)

        while not task.done() if task else len(small) < 30:
            small.append(asyncio.create_task(one()))
            await asyncio.sleep(0.1)
            took = time.perf_counter() - begin
        await asyncio.gather(*small)
        await runner.close()
        return took, waits

    table = Table(
        title=f"embedded mask decoder, one thread, 1200x1600: one box beside a request of 300; {rounds} rounds"
    )
    for column in ("part", "p50, ms", "p95, ms", "300 boxes, s"):
        table.add_column(column, justify="right")
    arms: dict[str, tuple[int | None, bool]] = {"alone": (32, False)}
    arms |= {str(most): (most, True) for most in (8, 16, 32, 64, 256)}
    rows: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, (most, large) in arms.items():
            rows[name].append(asyncio.run(run(most, large=large)))
    for name, found in rows.items():
        waits = [1000 * wait for _, each in found for wait in each]
        took = f"{median(took for took, _ in found):.2f}" if arms[name][1] else ""
        table.add_row(name, f"{np.percentile(waits, 50):.0f}", f"{np.percentile(waits, 95):.0f}", took)
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=600, help="of each arm at each load")
    parser.add_argument("--only", choices=("policies", "prepare", "deadlines", "parts"))
    given = parser.parse_args()
    console = Console(width=120)
    if given.only in (None, "policies"):
        policies(given.rounds, given.items, console)
    if given.only in (None, "prepare"):
        preparing(given.rounds, given.items, console)
    if given.only in (None, "deadlines"):
        deadlines(given.rounds, given.items, console)
    if given.only in (None, "parts"):
        parts(given.rounds, console)


if __name__ == "__main__":
    main()
