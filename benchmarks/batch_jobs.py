"""Batch jobs beside the bare loop of the official predictors, and beside a job whose embeddings cross processes.

    python -m benchmarks.batch_jobs --images 300 --rounds 3

  a  the official predictors in one process, one image after another, on as many threads as there are CPUs
  b  a job as it is: a detector pool, and a segmenter pool whose image encoder and mask decoder share a process
  c  a job of three pools: embeddings go through the object store

Same JPEG files, same allocator, same CPUs; rounds interleaved, medians. Rates count from when the models are warm, in b
and c the first of them; how long that took is told beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

PROMPT = "red circle, star"


def draw(folder: Path, images: int, height: int, width: int) -> None:
    """Scenes of the embedded model's world, as JPEG files; of sixty, again and again."""
    import torch
    from PIL import Image

    from pipeline.tiny import scenes

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(min(60, images)):
        drawn = scenes.draw(1, height, width, torch.Generator().manual_seed(number)).images[0]
        picture = Image.fromarray(drawn.round().byte().permute(1, 2, 0).contiguous().numpy())
        picture.save(folder / f"{number:06}.jpg", quality=90)
    for number in range(60, images):
        os.link(folder / f"{number % 60:06}.jpg", folder / f"{number:06}.jpg")


def official(folder: Path) -> dict[str, Any]:
    """Arm a, in this process."""
    import torch

    from benchmarks.serving.official import Official
    from pipeline.allocator import keep_freed_memory
    from pipeline.image import decode

    torch.set_num_threads(os.cpu_count() or 1)
    keep_freed_memory()
    begin = time.perf_counter()
    model = Official("tiny")
    paths = sorted(folder.iterdir())
    first, instances = 0.0, 0
    for number, path in enumerate(paths):
        instances += len(model.predict(decode(path.read_bytes()), PROMPT))
        if not number:
            first = time.perf_counter()
    end = time.perf_counter()
    return {"rate": (len(paths) - 1) / (end - first), "start_s": first - begin, "instances": instances}


def job(folder: Path, kind: str) -> dict[str, Any]:
    """Arm b or c, on a Ray of its own."""
    from benchmarks.three_pools import three_pools
    from deployments.jobs.connection import connected
    from deployments.jobs.dataset import steps, stream
    from deployments.jobs.inputs import find_work
    from deployments.jobs.plan import Plan, Pools
    from deployments.jobs.storage import StorageOptions
    from deployments.jobs.tally import Tally
    from deployments.settings import resolve

    work = find_work(str(folder), PROMPT, StorageOptions())
    plan = Plan.make(resolve({}), StorageOptions(), {})
    through = steps(plan, Pools()) if kind == "b" else three_pools(plan)
    begin = time.time()
    with connected("local", through):
        tally = Tally(len(work))
        for rows in stream(work, plan, through):
            tally.add(rows)
        end = time.time()
    told = tally.progress().to_json()
    return {
        "rate": told["done"] / (end - tally.began()),
        "start_s": tally.began() - begin,
        "instances": told["instances"],
        "stages": told["stages"],
    }


def measured(arm: str, folder: Path) -> dict[str, Any]:
    """One arm, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.batch_jobs", "--arm", arm, "--folder", str(folder)]
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--arms", default="abc", help="of a, b, c; a is what the others are compared with")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--arm", choices="abc", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        print(json.dumps(official(given.folder) if given.arm == "a" else job(given.folder, given.arm)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        draw(folder, given.images, *given.size)
        rounds = [{arm: measured(arm, folder) for arm in given.arms} for _ in range(given.rounds)]
    report(rounds)
    if given.json:
        given.json.write_text(
            json.dumps({"images": given.images, "size": given.size, "rounds": rounds}, indent=1) + "\n"
        )


def report(rounds: list[dict[str, dict[str, Any]]]) -> None:
    """Medians, and their ratio to the bare loop in the same round."""
    assert len({found["instances"] for one in rounds for found in one.values()}) == 1, "the arms do not agree"
    names = {"a": "a  official, bare loop", "b": "b  job, two pools", "c": "c  job, three pools"}
    print(f"{'':24}images/s   to a   warm after")
    for arm in rounds[0]:
        rate = median(one[arm]["rate"] for one in rounds)
        ratio = median(one[arm]["rate"] / one["a"]["rate"] for one in rounds)
        start = median(one[arm]["start_s"] for one in rounds)
        print(f"{names[arm]:24}{rate:8.2f}{ratio:7.2f}{start:10.1f} s")
    for arm in [one for one in rounds[0] if one != "a"]:
        print(f"\nlast round of {arm}: seconds of each stage, of its replicas together")
        for stage, one in rounds[-1][arm]["stages"].items():
            steps = ", ".join(f"{step} {spent:.1f}" for step, spent in one["seconds"].items())
            print(f"  {stage:14} busy {one['busy']:4.0%}  {one['items']:5} items  {steps}")


if __name__ == "__main__":
    main()
