"""What one part costs: the DAG without models, and a prompt about an image that is known already. Beside them how full
batches are, and how many bytes move."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import httpx
import numpy as np

from benchmarks.serving import batch_fill, bytes_moved, load, report
from benchmarks.serving.material import MODEL, Case, cases
from benchmarks.serving.processes import NotStartedError, running_arm
from deployments.stage_runner import model_threads
from pipeline.allocator import keep_freed_memory
from pipeline.bundle import resolve
from pipeline.image_encoder import ImageEncoder
from pipeline.mask_decoder import MaskDecoder
from pipeline.stages import DecodeOptions, MaskPrompts

JSON = {"content-type": "application/json"}
# Ray's own, or HAProxy, which goes to the ingress replicas directly.
PROXIES: dict[str, dict[str, str]] = {"Serve's proxy": {}, "HAProxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1"}}
Dag = dict[str, list[dict[str, float]]]
POINT = [[0.5, 0.5, 1]]  # shares of width and height: the middle


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    dag = empty_dag(rounds, seconds)
    known = {arm: known_image(arm, rounds, seconds) for arm in ("e", "f")}
    alone = decoder_alone(cases()[0])
    fills = {arm: batch_fill.measure(arm, rounds, seconds) for arm in ("e", "f")}
    moved = bytes_moved.measure()
    return {
        "empty": dag,
        "known_image": known,
        "decoder_alone_s": alone,
        "batch_fill": fills,
        "bytes_moved": moved,
        "lines": [
            _dag_table(dag),
            _known_table(known),
            f"The decoder alone, in process, on the same point: {1000 * alone:.1f} ms.",
            batch_fill.table(fills),
            bytes_moved.table(moved),
        ],
    }


def empty_dag(rounds: int, seconds: float) -> Dag:
    """Three stages that have their answers at once, by proxy and number of clients; their replicas read no image."""
    found: Dag = {}
    for proxy, environ in PROXIES.items():
        report.say(f"empty stages, {proxy}")
        try:
            with running_arm("empty", environ=environ) as arm:
                load.closed(arm.url, 4, 2, arm.cpu_seconds)
                for _ in range(rounds):
                    for clients in ("1", "8"):
                        row = report.summary(load.closed(arm.url, int(clients), seconds, arm.cpu_seconds))
                        found.setdefault(f"{proxy}, {clients}", []).append(row)
        except NotStartedError:  # HAProxy's ports may be taken: no reason to lose what was measured before
            report.say(f"{proxy} did not start and is left out")
    return found


def known_image(name: str, rounds: int, seconds: float) -> dict[str, list[dict[str, float]]]:
    """One client, always the first case: a first prompt, a text prompt again, a point on the same image."""
    report.say(f"known image, arm {name}")
    case = cases()[0]
    found: dict[str, list[dict[str, float]]] = {"first text prompt": [], "text prompt again": [], "point prompt": []}
    with running_arm(name) as arm, load.client_of(arm.url) as client:
        sent = client.post("/v1/segment", content=case.body(), headers=JSON).raise_for_status().json()
        image = {"type": "id", "value": sent["image"]["id"]}
        height, width = case.size
        points = [[x * width, y * height, label] for x, y, label in POINT]
        asks: dict[str, Callable[[httpx.Client, int], httpx.Response]] = {
            "first text prompt": lambda client, _: client.post("/v1/segment", content=case.body(), headers=JSON),
            "text prompt again": partial(_post, "/v1/segment", {"image": image, "prompt": case.prompt}),
            "point prompt": partial(_post, "/v1/masks", {"image": image, "points": points}),
        }
        for ask in asks.values():  # warm, and none may fail
            for number in range(5):
                ask(client, number).raise_for_status()
        for _ in range(rounds):
            for kind, rows in found.items():
                rows.append(report.summary(load.closed(arm.url, 1, seconds, arm.cpu_seconds, asks[kind])))
                if rows[-1]["failed"]:
                    raise RuntimeError(f"{kind}: a request failed")
    return found


def decoder_alone(case: Case) -> float:
    """Median seconds of the mask decoder in this process on the point, with as many threads as a stage has."""
    keep_freed_memory()
    bundle = resolve(MODEL, "segmenter")
    embedding = ImageEncoder.from_bundle(bundle).encode(case.jpeg)
    decoder = MaskDecoder.from_bundle(bundle, threads=model_threads(0))
    height, width = case.size
    point = np.array([[x * width, y * height, label] for x, y, label in POINT], np.float32)
    took = []
    for _ in range(30):
        begin = time.perf_counter()
        decoder.decode(embedding, MaskPrompts(points=(point,)), DecodeOptions())
        took.append(time.perf_counter() - begin)
    return median(took)


def _post(path: str, fields: dict[str, Any], client: httpx.Client, number: int) -> httpx.Response:
    return client.post(path, content=json.dumps(fields).encode(), headers=JSON)


def _row(name: str, rows: list[dict[str, float]]) -> list[str]:
    return [
        name,
        report.spread([row["p50_s"] for row in rows], 1000, 1),
        report.spread([row["p95_s"] for row in rows], 1000, 1),
        report.spread([row["cpu_s"] for row in rows], 1000, 1),
    ]


def _dag_table(found: Dag) -> str:
    head = ("three stages without models: proxy, clients", "p50 ms", "p95 ms", "CPU ms a request")
    return report.table(head, [_row(clients, rows) for clients, rows in found.items()])


def _known_table(found: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    rows = []
    for arm, kinds in found.items():
        first = median(row["p50_s"] for row in kinds["first text prompt"])
        for kind, each in kinds.items():
            again = median(row["p50_s"] for row in each)
            rows.append([*_row(f"{report.NAMES[arm]}: {kind}", each), f"{first / again:.2f}x"])
    return report.table(("one client, one image", "p50 ms", "p95 ms", "CPU ms a request", "beside first"), rows)
