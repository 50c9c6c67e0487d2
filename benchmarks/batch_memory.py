"""Peak memory of a job by the number of its images: flat, or else it ends one day.

    python -m benchmarks.batch_memory --images 1000 5000 20000

One `text2mask batch` over the largest number of small JPEG files, on a Ray of its own; the peaks up to when so many
were done. Sampled every second: the proportional memory (PSS) of the driver, the read tasks, the workers and Ray's own
processes; what lies in the object store is shared memory and counts where it is mapped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.batch_jobs import PROMPT, draw
from benchmarks.process_memory import pss

SAMPLE_S = 1.0
KINDS = ("driver", "loading", "workers", "ray", "all")


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


def run(folder: Path, output: Path, marks: list[int]) -> list[dict[str, Any]]:
    """One job; at each mark the peaks up to it, in MB, of each kind of process and of all together."""
    command = [sys.executable, "-m", "deployments.cli", "batch", str(folder), PROMPT, "--out", str(output)]
    peaks: dict[str, float] = defaultdict(float)
    told: dict[str, Any] = {"done": 0}
    reached: list[dict[str, Any]] = []
    begin = time.time()
    with subprocess.Popen([*command, "--progress", "json"], stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        threading.Thread(target=lambda: [told.update(json.loads(line)) for line in job.stdout or ()]).start()
        while job.poll() is None:
            time.sleep(SAMPLE_S)
            now = {kind: _pss(pids) for kind, pids in family(job.pid).items()}
            now["all"] = sum(now.values())
            for kind, memory in now.items():
                peaks[kind] = max(peaks[kind], memory)
            if len(reached) < len(marks) and told["done"] >= marks[len(reached)]:
                reached.append({"images": told["done"], "seconds": time.time() - begin, "peaks": dict(peaks)})
                row = "".join(f"{peaks.get(kind, 0):10.0f}" for kind in KINDS)
                print(f"{told['done']:<9}{row}{'':16}{told['done'] / reached[-1]['seconds']:.1f}", flush=True)
    assert job.returncode == 0
    assert told["errors"] == {}
    return reached


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
    print("done     " + "".join(f"{kind:>10}" for kind in KINDS) + "   MB at most;   images/s")
    marks = sorted(given.images)
    with tempfile.TemporaryDirectory() as place:
        draw(Path(place) / "images", marks[-1], *given.size)
        figures = run(Path(place) / "images", Path(place) / "labels", marks)
    if given.json:
        given.json.write_text(json.dumps({"size": given.size, "marks": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
