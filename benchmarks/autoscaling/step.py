"""A crowd comes and goes: five times the requests for a while. `python -m benchmarks.autoscaling.step`

The same step for each way to scale, on the whole service with stages that only take time (`timed_stages`), so that
replicas add up on this machine; a replica takes ten seconds more to start, as if it loaded weights. Requests come at
even intervals, whether or not earlier ones were answered. The arms:

- `queue time`: the service's own policy, as it comes but for `downscale_delay_s`;
- `ongoing requests`: Serve's default policy with the same delays, looking as often;
- `Serve's defaults`: that policy as Serve delivers it: 30 s back, up after 30 s, down after 600 s.

Targets of ongoing requests are those that configs/cluster.yaml had for it: detector 8, encoder 4, decoder 16.

Printed for each: seconds from the step until from then on 95 of 100 requests in any 5 s were answered within 2 s, p95
and worst while the crowd was there, how many were not answered, replica-seconds of all stages from the step to the end
(from a replica's start to when it is told to stop), most replicas of each stage, and how often their number turned.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import httpx
import numpy as np

from benchmarks.autoscaling import timed_stages
from benchmarks.autoscaling.live import STAGES
from benchmarks.autoscaling.watch import Watch, until
from benchmarks.serving.material import cases
from deployments.launch import APP_NAME, free_port, running

BEFORE_S, AFTER_S = 20.0, 60.0
RATE, FACTOR = 2.4, 5
DOWN_S = 20.0
ONGOING = {"detector": 8, "image_encoder": 4, "mask_decoder": 16}
WINDOW_S = 5.0
GOOD_S = 2.0
ARMS = ("queue time", "ongoing requests", "Serve's defaults")


@dataclass
class Run:
    """One arm's answers, as `(sent, took, status)` in seconds since the watch began, and its replicas."""

    watch: Watch
    answers: list[tuple[float, float, int]] = field(default_factory=list)
    step: float = 0.0
    over: float = 0.0
    end: float = 0.0


def settings(arm: str, places: int) -> dict[str, Any]:
    common: dict[str, Any] = {"min_replicas": 1, "max_replicas": 8, "downscale_delay_s": DOWN_S}
    told: dict[str, Any] = {
        "model": "tiny",
        "ingress": {"num_cpus": 0.05, "max_ongoing_requests": places + 1},
        "admission.max_requests": places,
    }
    for stage, target in ONGOING.items():
        counted = {"policy": "ongoing_requests", "target_ongoing_requests": target}
        told[stage] = {"num_cpus": 0.02, "autoscaling": common if arm == "queue time" else common | counted}
    return told


def as_serve_delivers(autoscaling: Any) -> dict[str, Any]:
    """In place of `deployments.app.autoscaling_config`."""
    names = ("min_replicas", "max_replicas", "target_ongoing_requests")
    return {name: getattr(autoscaling, name) for name in names}


async def crowd(client: httpx.AsyncClient, run: Run, rate: float, seconds: float) -> list[asyncio.Task[None]]:
    """`rate` requests a second, each about an image of its own; gives those under way."""
    asked = []
    begin = time.perf_counter()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(begin + number / rate - time.perf_counter())
        asked.append(asyncio.create_task(one(client, run, cases()[0].body())))
    return asked


async def one(client: httpx.AsyncClient, run: Run, body: bytes) -> None:
    sent = time.perf_counter()
    try:
        answer = await client.post("/v1/segment", content=body, headers={"content-type": "application/json"})
        status = answer.status_code
    except httpx.HTTPError:
        status = 0
    run.answers.append((sent - run.watch.began, time.perf_counter() - sent, status))


async def load(url: str, run: Run, seconds: float) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=90, trust_env=False, verify=False, limits=limits) as client:
        asked = await crowd(client, run, RATE, BEFORE_S)
        run.step = time.perf_counter() - run.watch.began
        asked += await crowd(client, run, FACTOR * RATE, seconds)
        run.over = time.perf_counter() - run.watch.began
        asked += await crowd(client, run, RATE, AFTER_S)
        run.end = time.perf_counter() - run.watch.began
        await asyncio.gather(*asked)


def measure(arm: str, places: int, seconds: float) -> Run:
    stages = {
        f"deployments.app.{name}Deployment": getattr(timed_stages, name)
        for name in ("Detector", "ImageEncoder", "MaskDecoder")
    }
    patches = [mock.patch(name, stage) for name, stage in stages.items()]
    if arm == "Serve's defaults":
        patches.append(mock.patch("deployments.app.autoscaling_config", as_serve_delivers))
    for patch in patches:
        patch.start()
    try:
        with running(settings(arm, places), {"port": free_port()}) as url, Watch(APP_NAME, STAGES) as watch:
            run = Run(watch)
            until(lambda: all(map(watch.running, STAGES)), 60, "not all stages are there")
            asyncio.run(load(url, run, seconds))
            return run
    finally:
        for patch in patches:
            patch.stop()


def p95(answers: Sequence[tuple[float, float, int]]) -> float:
    """Of what was answered; for ever, where more than 5 of 100 were not."""
    times = [took if status == 200 else np.inf for _, took, status in answers]
    return float(np.percentile(times, 95, method="higher")) if times else 0.0


def recovered(run: Run) -> float:
    """Seconds from the step on, or infinity."""
    last_bad = run.step
    at = run.step
    while at <= run.over - WINDOW_S:
        inside = [one for one in run.answers if at <= one[0] < at + WINDOW_S]
        if p95(inside) > GOOD_S:
            last_bad = at + WINDOW_S
        at += WINDOW_S / 5
    return last_bad - run.step if last_bad < run.over - WINDOW_S / 5 else float("inf")


def figures(run: Run) -> Mapping[str, float | str]:
    inside = [one for one in run.answers if run.step <= one[0] < run.over]
    most = [max(one.running[stage] for one in run.watch.samples if one.at < run.end) for stage in STAGES]
    return {
        "recovered s": recovered(run),
        "p95 s": p95(inside),
        "worst s": max((took for _, took, status in inside if status == 200), default=0.0),
        "unanswered": sum(status != 200 for _, _, status in inside),
        "replica-seconds": sum(run.watch.replica_seconds(stage, run.step, run.end) for stage in STAGES),
        "most replicas": "/".join(map(str, most)),
        "turns": sum(run.watch.turns(stage, run.step, run.end) for stage in STAGES),
    }


def print_row(arm: str, found: Mapping[str, float | str]) -> None:
    cells = (value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0") for value in found.values())
    print(f"| {arm} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=100, help="that the crowd stays")
    parser.add_argument("--places", type=int, default=1000, help="admission.max_requests; 32 turns a crowd away")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    options = parser.parse_args()
    print(f"{os.cpu_count()} CPUs; {RATE:g} requests a second, then {FACTOR * RATE:g} for {options.seconds:g} s\n")
    titles = "recovered s | p95 s | worst s | unanswered | replica-seconds | most replicas | turns"
    print(f"| | {titles} |\n|{'---|' * 8}")
    for _ in range(options.rounds):
        for arm in options.arms:
            print_row(arm, figures(measure(arm, options.places, options.seconds)))


if __name__ == "__main__":
    main()
