"""How full batches are under more load than an arm can bear: open load at 130 %, all images of one padded shape."""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from functools import partial
from statistics import median

import httpx

from benchmarks.serving import load, report
from benchmarks.serving.material import Case, cases
from benchmarks.serving.processes import running_arm
from deployments.settings import Settings
from deployments.stage_settings import StageSettings

OVER = 1.3
REPORT_S = 1.0  # Ray's metrics are that old at most
STAGES = ("detector", "image_encoder", "mask_decoder")
# Counts are exact; the sums of Ray's histograms are not, they come from the middles of their buckets.
_ROW = re.compile(r"ray_text2mask_(items_total|cost_total|batch_items_count|queue_seconds_sum){(.*?)} (\S+)")

Fills = dict[str, list[dict[str, float]]]


def measure(name: str, rounds: int, seconds: float) -> Fills:
    """For each stage and round: mean items in a batch, mean fill (0 to 1), and about how many seconds an item waits.

    The first two thirds of the load build the queue up and are not counted.
    """
    report.say(f"batch fill, arm {name}")
    ask = partial(_ask, cases()[0])
    found: Fills = {stage: [] for stage in STAGES}
    every = {"RAY_metrics_report_interval_ms": str(int(1000 * REPORT_S))}
    with running_arm(name, metered=True, environ=every) as arm:
        load.closed(arm.url, 4, 2, arm.cpu_seconds, ask)
        capacity = load.closed(arm.url, 16, seconds, arm.cpu_seconds, ask).rate
        for number in range(rounds):
            run = partial(load.opened, arm.url, OVER * capacity, 3 * seconds, number, arm.cpu_seconds, ask)
            under_load = threading.Thread(target=run)
            under_load.start()
            time.sleep(2 * seconds)
            before = _read(arm.metrics_port)
            time.sleep(max(REPORT_S, seconds - REPORT_S))
            after = _read(arm.metrics_port)
            under_load.join()
            for stage, rows in found.items():
                rows.append(_means(stage, before, after))
    return found


def _ask(case: Case, client: httpx.Client, number: int) -> httpx.Response:
    return client.post("/v1/segment", content=case.body(), headers={"content-type": "application/json"})


def _read(port: int) -> dict[str, float]:
    """Over all replicas of a stage, by `STAGE METRIC`."""
    read: dict[str, float] = defaultdict(float)
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    for metric, labels, value in _ROW.findall(text):
        stage = re.search(r'stage="(\w+)"', labels)
        if stage is not None:
            read[f"{stage[1]} {metric}"] += float(value)
    return read


def _means(stage: str, before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    def more(metric: str) -> float:
        return after[f"{stage} {metric}"] - before[f"{stage} {metric}"]

    batches, items = max(1.0, more("batch_items_count")), more("items_total")
    settings: StageSettings = getattr(Settings(), stage)
    fill = items / batches / settings.max_batch_size
    if settings.max_batch_cost is not None:
        fill = max(fill, more("cost_total") / batches / settings.max_batch_cost)
    return {"items": items / batches, "fill": fill, "wait_s": more("queue_seconds_sum") / max(1.0, items)}


def table(found: dict[str, Fills]) -> str:
    """A row for each arm and stage. The bottleneck is where items wait longest."""
    rows = []
    for arm, stages in found.items():
        waits = {stage: median(row["wait_s"] for row in each) for stage, each in stages.items()}
        for stage, each in stages.items():
            note = " (bottleneck)" if waits[stage] == max(waits.values()) else ""
            rows.append(
                [
                    f"{report.NAMES[arm]}: {stage.replace('_', ' ')}{note}",
                    report.spread([row["items"] for row in each], 1, 1),
                    report.spread([row["fill"] for row in each], 100),
                    report.spread([row["wait_s"] for row in each], 1000),
                ]
            )
    return report.table(("130 % open load, one shape", "items a batch", "fill %", "wait ms"), rows)
