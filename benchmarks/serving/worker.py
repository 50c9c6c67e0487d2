"""The process of an arm: `python -m benchmarks.serving.worker ARM PORT METRICS_PORT`, the last 0 for none.

Starts it; ends when standard input does.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import warnings
from typing import Any
from unittest import mock

from benchmarks.serving.material import MODEL

CORES = len(os.sched_getaffinity(0))


def app(port: int, metrics_port: int, **args: Any) -> None:
    from deployments.launch import running

    with running({"model": MODEL, **args}, {"port": port}, metrics_port=metrics_port or None):
        print("ready", flush=True)
        sys.stdin.read()


def empty(port: int) -> None:
    from benchmarks.serving import empty_stages as stages

    with (
        mock.patch("deployments.app.DetectorDeployment", stages.Detector),
        mock.patch("deployments.app.ImageEncoderDeployment", stages.ImageEncoder),
        mock.patch("deployments.app.MaskDecoderDeployment", stages.MaskDecoder),
    ):
        app(port, 0)


def end_with_input() -> None:
    """For servers that know no other end: this process, and with it its group, which the parent clears away."""

    def wait() -> None:
        while os.read(0, 4096):  # not sys.stdin: LitServe forks, and its child would wait for this thread's lock
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    warnings.filterwarnings("ignore")
    arm, port, metrics_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if arm in ("a", "d"):
        from benchmarks.serving import in_process

        in_process.work(in_process.official if arm == "a" else in_process.ours, CORES)
    elif arm in ("b", "c"):
        end_with_input()
        peer = importlib.import_module(f"benchmarks.serving.peer_{'fastapi' if arm == 'b' else 'litserve'}")
        peer.serve(port, CORES)
    elif arm == "empty":
        empty(port)
    else:
        app(port, metrics_port, fused=arm == "f")


if __name__ == "__main__":
    main()
