"""What shape buckets bring the embedded detector, and what they change: `python -m benchmarks.shape_buckets`.

Images of stated sizes, drawn scenes, go through the real queue at more than its capacity: 32 wait at any time (what the
service admits), a batch of at most 8 is taken, run, and replaced. Three arms: `exact` as the official detectors run
(no padding), `exact` as the embedded one does (multiples of 32), and `buckets`.

For each: distinct shapes, mean fill of a batch, padded pixels by pixels, CPU-seconds of an image on one thread, images
for every CPU-second, and how many detections (over the bundle's thresholds) came or went against the first arm: those
of either without one of the same class in the other at an IoU of at least 0.5, by the number of the first arm's; and of
the others the median and 95th percentile of the difference of score, and of the sides of the box in pixels of the
resized image.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import time
from dataclasses import replace
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from deployments.batch_queue import BatchQueue, Waiting
from pipeline.bundle import resolve
from pipeline.detector import Detector, DetectorItem
from pipeline.masks import box_iou
from pipeline.stages import Detections, DetectRequest, UInt8Array
from pipeline.tiny import scenes
from pipeline.tiny.evaluate import classes, texts_for

ADMITTED, SIZE = 32, 8
# `(height, width)` and their share: what cameras, phones and the web have, and a fifth cropped by hand.
COMMON = {(480, 640): 26, (640, 480): 10, (427, 640): 16, (640, 427): 6, (360, 640): 8, (640, 360): 4, (500, 500): 6}
COMMON |= {(512, 640): 4}
CROPPED = 20  # of a longer side of 640 and an aspect of 1 to 2, either way up


def images(count: int, seed: int) -> list[tuple[UInt8Array, DetectRequest]]:
    """Scenes, and texts that name what is in them and as much that is not."""
    rng, g, order = random.Random(seed), torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        (size,) = rng.choices([*COMMON, None], [*COMMON.values(), CROPPED])
        if size is None:
            size = (640, round(640 / rng.uniform(1.0, 2.0)))
            size = size if rng.random() < 0.5 else (size[1], size[0])
        scene = scenes.draw(1, *size, g)
        there = scene.present[0].numpy()
        kinds = texts_for("seen", scene.colours[0].numpy()[there], scene.shapes[0].numpy()[there], order)
        pixels = scene.images[0].round().byte().permute(1, 2, 0).contiguous().numpy()
        drawn.append((pixels, DetectRequest(classes(kinds))))
    return drawn


def loaded(detector: Detector, items: list[DetectorItem]) -> dict[str, Any]:
    """All items through the queue, 32 waiting at any time."""

    async def run() -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        queue: BatchQueue[int, Any] = BatchQueue(SIZE, SIZE, time.time, lambda *_: None)
        coming = iter(range(len(items)))
        found: dict[int, Detections] = {}
        fills, spent = [], 0.0

        def admit(count: int) -> int:
            taken = [number for _, number in zip(range(count), coming, strict=False)]
            for number in taken:
                waiting: Waiting[int, Any] = Waiting(number, 1, None, loop.create_future(), 0.0, None)
                queue.add(detector.batch_key(items[number]), waiting)
            return len(taken)

        admit(ADMITTED)
        while chosen := queue.next_batch():
            batch = [waiting.item for waiting in chosen[1]]
            begin = time.thread_time()
            raw = detector.forward([items[number] for number in batch])
            spent += time.thread_time() - begin
            for number, scores in zip(batch, raw, strict=True):
                found[number] = detector.finish(items[number], scores)
            if admit(len(batch)) == len(batch):  # still under load
                fills.append(len(batch) / SIZE)
        return {
            "found": [found[number] for number in range(len(items))],
            "fill": mean(fills),
            "cpu": spent / len(items),
        }

    return asyncio.run(run())


def drift(exact: list[Detections], other: list[Detections], items: list[DetectorItem]) -> tuple[int, int, str, str]:
    """Detections of `exact`; of these and the others, those that have no counterpart; scores; boxes."""
    changed, scores, sides, count = 0, [], [], 0
    for one, two, item in zip(exact, other, items, strict=True):
        count += len(one)
        scale = item.pixels.shape[1] / item.size[0]
        overlap = box_iou(one.boxes, two.boxes) if len(one) and len(two) else np.zeros((len(one), len(two)))
        alike = (overlap >= 0.5) & (one.class_ids[:, None] == two.class_ids)
        free = np.ones(len(two), bool)
        for row in range(len(one)):
            fits = np.flatnonzero(alike[row] & free)
            if not len(fits):
                changed += 1
                continue
            best = fits[overlap[row, fits].argmax()]
            free[best] = False
            scores.append(abs(float(one.scores[row] - two.scores[best])))
            sides.extend(scale * np.abs(one.boxes[row] - two.boxes[best]))
        changed += int(free.sum())

    def spread(values: list[Any]) -> str:
        return f"{np.percentile(values, 50):.4f}, {np.percentile(values, 95):.4f}"

    return count, changed, spread(scores), spread(sides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    bundle = resolve("tiny", "detector")
    own = Detector.from_bundle(bundle)
    unpadded = Detector(own.model, replace(own.arch, pad_multiple=1), bundle)
    arms = {
        "exact, no padding": unpadded,
        "exact, multiples of 32": own,
        "buckets": Detector(own.model, own.arch, bundle, shapes="buckets"),
    }
    drawn = images(given.images, seed=1)
    items = {name: [detector.prepare(*one) for one in drawn] for name, detector in arms.items()}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for _ in range(given.rounds):
        for name, detector in arms.items():
            runs[name].append(loaded(detector, items[name]))

    console = Console(width=150)
    table = Table(
        title=f"{given.images} images, {given.rounds} rounds, one thread; differences: median, 95th percentile"
    )
    for column in (
        "",
        "shapes",
        "fill, %",
        "waste",
        "CPU-s an image",
        "images/CPU-s",
        "came or went",
        "score",
        "box, px",
    ):
        table.add_column(column, justify="left" if not column else "right")
    reference = runs["exact, no padding"][0]["found"]
    for name in arms:
        shapes = {item.padded for item in items[name]}
        waste = sum(math.prod(i.padded) for i in items[name]) / sum(math.prod(i.pixels.shape[1:]) for i in items[name])
        cpu = [run["cpu"] for run in runs[name]]
        count, changed, scores, sides = drift(reference, runs[name][-1]["found"], items[name])
        table.add_row(
            name,
            str(len(shapes)),
            f"{100 * runs[name][0]['fill']:.0f}",
            f"{waste:.3f}",
            f"{median(cpu):.4f} ({min(cpu):.4f}-{max(cpu):.4f})",
            f"{1 / median(cpu):.1f}",
            f"{changed} of {count} ({changed / max(1, count):.1%})",
            scores,
            sides,
        )
    console.print(table)


if __name__ == "__main__":
    main()
