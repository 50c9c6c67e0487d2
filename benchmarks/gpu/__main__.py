"""Our models beside the official code, on one GPU: `make bench-gpu`, ten minutes at most.

Each stage runs in a process of its own, so that none takes another with it; what was measured by the time a stage fails
or runs out of time stays. Every arm's answers are held against those of the official float32 code first; one whose
answers differ is not timed. `--cpu --tiny` runs the same on a CPU with the embedded architectures, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import describe, show

STAGES = ("encoder vit_b", "detector", "pipeline vit_b", "encoder vit_h", "pipeline vit_h")
RESULTS = Path(__file__).parents[1] / "results"
SHARE_S = 200.0  # of the time, for one stage at most


def run_stage(stage: str, device: str, tiny: bool, seconds: float, emit: Callable[[dict[str, Any]], None]) -> None:
    """All arms of one stage, in this process."""
    import torch

    from benchmarks.gpu import cores, whole
    from benchmarks.gpu.measure import Bench
    from benchmarks.gpu.models import Scene

    bench = Bench(Scene(device, tiny, seconds), stage, emit)
    kind, _, name = stage.partition(" ")
    runs = {
        "encoder": partial(cores.encoder, bench, name),
        "detector": partial(cores.detector, bench),
        "pipeline": partial(whole.pipeline, bench, name),
    }
    with torch.inference_mode():
        runs[kind]()


def in_own_process(stage: str, device: str, tiny: bool, seconds: float, limit_s: float) -> list[dict[str, Any]]:
    """The rows of a stage, and one more that says so where it did not end well."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--stage", stage, "--seconds", str(seconds)]
    command += ["--cpu"] * (device == "cpu") + ["--tiny"] * tiny
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    fault = None
    try:
        out, errors = child.communicate(timeout=limit_s)
        if child.returncode != 0:
            fault = (errors.strip().splitlines() or [f"exit status {child.returncode}"])[-1][:300]
    except subprocess.TimeoutExpired:
        child.kill()
        out, errors = child.communicate()
        fault = f"stopped after {limit_s:.0f} s"
    rows = [json.loads(line) for line in out.splitlines() if line.startswith('{"stage"')]
    if fault is not None:
        print(errors[-3000:], file=sys.stderr)
        rows.append({"stage": stage, "arm": "(the rest)", "batch": 0, "error": fault})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="not on a GPU")
    parser.add_argument("--tiny", action="store_true", help="the embedded architectures, small pictures")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring each arm")
    parser.add_argument("--limit", type=float, default=570.0, help="seconds for everything")
    parser.add_argument("--json", type=Path, help="where the figures go; results/gpu-CARD.json unless --tiny")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = "cpu" if options.cpu else "cuda"
    if options.stage:
        warnings.filterwarnings("ignore")
        run_stage(options.stage, device, options.tiny, options.seconds, lambda row: print(json.dumps(row), flush=True))
        return 0
    end = time.monotonic() + options.limit
    machine = describe(device)
    rows: list[dict[str, Any]] = []
    path = options.json
    if path is None and not options.tiny:
        path = RESULTS / f"gpu-{re.sub(r'[^a-z0-9]+', '-', machine['device'].lower()).strip('-')}.json"
    for stage in options.stages:
        left = end - time.monotonic()
        if left < 10:
            rows.append({"stage": stage, "arm": "(all)", "batch": 0, "error": "no time left"})
            continue
        rows += in_own_process(stage, device, options.tiny, options.seconds, min(left, SHARE_S))
        if path is not None:  # after each stage: what is measured is kept
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"machine": machine, "tiny": options.tiny, "rows": rows}, indent=1) + "\n")
    show(machine, rows, tiny=options.tiny)
    return 0 if any(row.get("rate") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
