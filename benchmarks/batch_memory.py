"""Peak memory of a job by the number of its images: flat, or else it ends one day.

    python -m benchmarks.batch_memory --images 1000 5000 20000

Each number is one `text2mask batch` over small JPEG files on a Ray of its own. Sampled every second: the proportional
memory (PSS) of the driver, of all workers and of Ray's own processes, and what its object store holds in shared memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.batch_jobs import PROMPT, draw
from benchmarks.process_memory import pss

SAMPLE_S = 1.0


def family(root: int) -> dict[str, list[int]]:
    """The processes that `root` has started, and they, by kind."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            pid = int(path.name)
            parents[pid] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            names[pid] = (path / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
    kinds: dict[str, list[int]] = defaultdict(list)
    for pid in parents:
        above = pid
        while above > 1 and above != root:
            above = parents.get(above, 0)
        if above == root:
            kinds[_kind(pid, root, names[pid])].append(pid)
    return kinds


def _kind(pid: int, root: int, name: str) -> str:
    if pid == root:
        return "driver"
    for kind in ("DetectorWorker", "SegmenterWorker"):
        if kind in name:
            return "workers"
    return "loading" if name.startswith("ray::") else "ray"


def run(folder: Path, output: Path) -> dict[str, Any]:
    """One job; the peak of each kind of process in MB, and of all of them together."""
    command = [sys.executable, "-m", "deployments.cli", "batch", str(folder), PROMPT, "--out", str(output)]
    peaks: dict[str, float] = defaultdict(float)
    begin = time.time()
    with subprocess.Popen([*command, "--progress", "json"], stdout=subprocess.PIPE, text=True) as job:
        while job.poll() is None:
            time.sleep(SAMPLE_S)
            now = {kind: _pss(pids) for kind, pids in family(job.pid).items()}
            now["all"] = sum(now.values())
            for kind, memory in now.items():
                peaks[kind] = max(peaks[kind], memory)
        assert job.stdout is not None
        told = json.loads(job.stdout.read().splitlines()[-1])
    assert job.returncode == 0
    assert told["errors"] == {}
    return {
        "images": told["done"],
        "seconds": time.time() - begin,
        "instances": told["instances"],
        "peaks": dict(peaks),
    }


def _pss(pids: list[int]) -> float:
    total = 0.0
    for pid in pids:
        with suppress(OSError):  # it has just ended
            total += pss([pid])
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 5_000, 20_000])
    parser.add_argument("--size", type=int, nargs=2, default=(96, 128), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")
    kinds = ("driver", "loading", "workers", "ray", "all")
    print("images   " + "".join(f"{kind:>10}" for kind in kinds) + "   MB at most;   images/s")
    figures = []
    for images in given.images:
        with tempfile.TemporaryDirectory() as place:
            draw(Path(place) / "images", images, *given.size)
            found = run(Path(place) / "images", Path(place) / "labels")
        figures.append(found)
        row = "".join(f"{found['peaks'].get(kind, 0):10.0f}" for kind in kinds)
        print(f"{images:<9}{row}{'':16}{images / found['seconds']:.1f}", flush=True)
        if given.json:
            given.json.write_text(json.dumps({"size": given.size, "runs": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
