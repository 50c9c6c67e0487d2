"""Text to masks, side by side, with the embedded model on this machine's cores. Linux only.

  a  official classes, in process, one image after another     d  TextToMask, in process
  b  the same behind FastAPI, a pool of threads, a lock        e  the Serve app, three stages
  c  the same behind LitServe, batches of up to 8              f  the Serve app, fused

Same weights, images, prompts, thresholds and answers (JSON with run lengths); each server is alone on the machine while
it is measured, but for the clients, which share its cores. One round is every arm once, started anew.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import sys
from pathlib import Path
from typing import Any

from benchmarks.process_memory import Watch
from benchmarks.serving import extras, load, report
from benchmarks.serving.answers import AnswersDifferError, compare
from benchmarks.serving.load import Load
from benchmarks.serving.material import MODEL, cases
from benchmarks.serving.processes import Arm, NotStartedError, running_arm
from pipeline.bundle import resolve

ARMS = ("a", "b", "c", "d", "e", "f")
IN_PROCESS = ("a", "d")
CLIENTS = (1, 2, 4, 8, 16)
FRACTIONS = (0.3, 0.7, 1.0, 1.3)
RESULTS = Path(__file__).parents[1] / "results" / "serving.json"


def answers(name: str, arm: Arm) -> list[dict[str, Any]]:
    """To every case; the first requests of an arm, so its warm-up too."""
    if name in IN_PROCESS:
        return [json.loads(arm.say(f"ask {number}")) for number in range(len(cases()))]
    with load.client_of(arm.url) as client:
        return [load.ask_case(client, number).raise_for_status().json() for number in range(len(cases()))]


def in_process(arm: Arm, seconds: float) -> Load:
    cpu = arm.cpu_seconds()
    took = json.loads(arm.say(f"run {seconds}"))
    return Load(took, seconds=sum(took), server_cpu_s=arm.cpu_seconds() - cpu)


def closed_loops(name: str, arm: Arm, seconds: float) -> dict[str, Load]:
    if name in IN_PROCESS:  # there is nobody to wait but the one that asks
        return {"1": in_process(arm, seconds)}
    load.closed(arm.url, 4, min(2.0, seconds), arm.cpu_seconds)  # every thread and connection once
    return {str(clients): load.closed(arm.url, clients, seconds, arm.cpu_seconds) for clients in CLIENTS}


def peak_memory(name: str, arm: Arm) -> float:
    """MB at 16 clients, measured apart from the timings: looking costs the server time."""
    with Watch({"arm": arm.pids()}) as watch:
        if name in IN_PROCESS:
            arm.say("run 2")
        else:
            load.closed(arm.url, CLIENTS[-1], 2, arm.cpu_seconds)
    return watch.peak["arm"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, 2 s a load: a look, not a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each load; at 16 clients a few answers a client")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--json", type=Path, help=f"where the figures go; {RESULTS.name} in results/ unless --quick")
    options = parser.parse_args()
    rounds, seconds = (1, 2.0) if options.quick else (options.rounds, options.seconds)
    arms = ["a", *(arm for arm in options.arms if arm != "a")]  # the others are measured against it
    left_out = {}
    if "c" in arms and importlib.util.find_spec("litserve") is None:
        arms.remove("c")
        left_out["c"] = "litserve is not installed; it is in the extra `bench`"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    try:
        figures = measure(arms, rounds, seconds)
    except NotStartedError as error:
        print(f"nothing is compared: {error}; --arms leaves one out", file=sys.stderr)
        return 1
    except AnswersDifferError as error:
        print(f"answers differ, nothing is compared: {error}", file=sys.stderr)
        return 1
    figures["left_out"] = left_out
    file = options.json or (None if options.quick else RESULTS)
    if file is not None:
        file.write_text(json.dumps(figures, indent=1) + "\n")
    print(report.text(figures))
    return 0


def measure(arms: list[str], rounds: int, seconds: float) -> dict[str, Any]:
    """All figures. Raises AnswersDifferError."""
    figures: dict[str, Any] = {"machine": report.machine(), "rounds": rounds, "seconds": seconds, "near": {}}
    closed: dict[str, Any] = {arm: [] for arm in arms}
    opened: dict[str, Any] = {arm: [] for arm in arms if arm not in IN_PROCESS}
    detector = resolve(MODEL, "detector")
    thresholds = (detector.box_threshold, detector.text_threshold)
    official: list[dict[str, Any]] = []
    for number in range(rounds):
        for name in arms:
            report.say(f"round {number + 1}, arm {name}")
            with running_arm(name) as arm:
                found = answers(name, arm)
                official = official or found  # the first arm is the official one
                near = compare(name, official, found, thresholds)
                figures["near"][name] = max(near, figures["near"].get(name, 0))
                loads = closed_loops(name, arm, seconds)
                row = {clients: report.summary(one) for clients, one in loads.items()}
                closed[name].append(row)
                if name == "a" and number == 0:  # the same yardstick for all rounds
                    figures["capacity"] = row["1"]["rate"]
                    figures["slo_s"] = 3 * row["1"]["p50_s"]
                if name in opened:
                    opened[name].append(open_loops(arm, figures, seconds, number))
                row["peak_mb"] = peak_memory(name, arm)
    figures |= {"closed": closed, "open": opened, "extras": extras.measure(rounds, seconds)}
    figures["detections"] = sum(len(one["detections"]) for one in official)
    return figures


def open_loops(arm: Arm, figures: dict[str, Any], seconds: float, number: int) -> dict[str, Any]:
    found = {}
    for fraction in FRACTIONS:
        rate = fraction * figures["capacity"]
        one = load.opened(arm.url, rate, 2 * seconds, seed=number, server_cpu=arm.cpu_seconds)
        good = sum(took <= figures["slo_s"] for took in one.took)
        found[str(fraction)] = report.summary(one) | {"goodput": good / one.seconds, "asked": rate}
    return found


if __name__ == "__main__":
    sys.exit(main())
