"""Each stage scaled by its own load, on a running service. `python -m benchmarks.autoscaling.live`

The embedded model behind HTTP, three stages of zero to three replicas each, asked by one client through its public
interface. One phase after another: text prompts on cached images, point prompts on cached images, new images, text
on the cached ones again while the image encoder shrinks, silence until nothing runs, and a request that wakes all.
Printed: replicas over time, and what became of the requests.

It shows who scales, not what it gains: all replicas share this machine's cores. A request that names an image which is
not cached any more is refused (404 `image_not_cached`), and the client sends the bytes: counted as `resent`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.autoscaling.watch import Sample, Watch, until
from benchmarks.serving.material import cases
from deployments.client import AsyncClient
from deployments.launch import APP_NAME, free_port, running
from pipeline.tiny import scenes

STAGES = ("detector-tiny", "image-encoder-tiny", "mask-decoder-tiny")
CALLERS = 8
CROWD = 28  # for new images, which are little work each
CLASSES = [f"{colour} {shape}" for colour in scenes.COLOUR_NAMES for shape in scenes.SHAPES]
POINTS = 150

Ask = Callable[[AsyncClient], Awaitable[object]]


@dataclass
class Told:
    """What became of the requests, and when each phase began."""

    phases: list[tuple[float, str]] = field(default_factory=list)
    answered: int = 0
    failures: list[str] = field(default_factory=list)


def settings(zero_s: float) -> dict[str, object]:
    """Delays are short, so that minutes are enough to see it."""
    autoscaling = {
        "min_replicas": 0,
        "max_replicas": 3,
        "target_queue_s": 0.3,
        "upscale_delay_s": 3,
        "downscale_delay_s": 10,
        "downscale_to_zero_delay_s": zero_s,
    }
    stage = {"num_cpus": 0.05, "threads": 1, "autoscaling": autoscaling}
    return {"model": "tiny", "ingress.num_cpus": 0.05, "detector": stage, "image_encoder": stage, "mask_decoder": stage}


def many_points(generator: random.Random, size: tuple[int, int]) -> list[list[list[float]]]:
    height, width = size
    return [[[generator.uniform(0, width), generator.uniform(0, height), 1]] for _ in range(POINTS)]


async def asked(client: AsyncClient, ask: Ask, callers: int, seconds: float, told: Told) -> None:
    """So many at a time, each again as soon as it is answered."""
    end = time.perf_counter() + seconds

    async def one() -> None:
        while time.perf_counter() < end:
            await once(client, ask, told)

    await asyncio.gather(*(one() for _ in range(callers)))


async def once(client: AsyncClient, ask: Ask, told: Told) -> None:
    try:
        await ask(client)
    except Exception as error:
        told.failures.append(f"{type(error).__name__}: {error}")
    else:
        told.answered += 1


async def phases(url: str, watch: Watch, seconds: float, told: Told) -> None:
    generator = random.Random(0)
    known = cases()[:4]

    def text(client: AsyncClient) -> Awaitable[object]:
        return client.segment(generator.choice(known).jpeg, CLASSES, max_detections=3)

    def points(client: AsyncClient) -> Awaitable[object]:
        case = generator.choice(known)
        return client.masks(case.jpeg, points=many_points(generator, case.size))

    def new(client: AsyncClient) -> Awaitable[object]:
        case = generator.choice(known)
        return client.segment(case.unseen(), case.prompt)

    def begin(name: str) -> None:
        told.phases.append((time.perf_counter() - watch.began, name))

    async with AsyncClient(url) as client:
        begin("first request")
        for case in known:
            await once(client, lambda client, case=case: client.segment(case.jpeg, case.prompt), told)  # type: ignore[misc]
        for name, ask, callers in (
            ("text, cached images", text, CALLERS),
            ("points, cached images", points, CALLERS),
            ("new images", new, CROWD),
            ("text, cached images", text, CALLERS),
        ):
            begin(name)
            await asked(client, ask, callers, seconds, told)
        begin("silence")
        await asyncio.to_thread(until, lambda: not any(map(watch.running, STAGES)), 180, "not all went to zero")
        begin("one request")
        await once(client, new, told)
        await asyncio.sleep(3)
        stats = client.stats
    print_table(watch.samples, told)
    failed = len(told.failures)
    print(f"\n{told.answered + failed} requests: {failed} failed, {stats.retries} repeated, {stats.resent} resent.")
    for failure in dict.fromkeys(told.failures):
        print(f"- {told.failures.count(failure)} x {failure}")


def print_table(samples: Sequence[Sample], told: Told) -> None:
    """A row for each change."""
    print(f"{os.cpu_count()} CPUs\n\n| s | | detector | image encoder | mask decoder |\n|---|---|---|---|---|")
    left, before = list(told.phases), None
    for sample in samples:
        began = None
        while left and left[0][0] <= sample.at:
            began = left.pop(0)[1]
        now = tuple(f"{sample.running[name]}" for name in STAGES)
        if now != before or began:
            print(f"| {sample.at:.0f} | {began or ''} | {' | '.join(now)} |")
        before = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=45, help="of each phase with load")
    parser.add_argument("--zero", type=float, default=30, help="downscale_to_zero_delay_s")
    options = parser.parse_args()
    with running(settings(options.zero), {"port": free_port()}) as url, Watch(APP_NAME, STAGES) as watch:
        asyncio.run(phases(url, watch, options.seconds, Told()))


if __name__ == "__main__":
    main()
