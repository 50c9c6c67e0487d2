"""What a second question about an image costs with full-size models: `python -m benchmarks.known_image`. Linux only.

GroundingDINO Swin-T and SAM ViT-B, with weights drawn at random and saved in the published format, behind the service:
a text prompt about new bytes, a text prompt again, and a point on an image that is known. Random weights find boxes
anywhere: each text prompt asks for the best five.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import torch

from benchmarks.serving import report
from benchmarks.serving.material import Case, body, cases
from deployments.launch import free_port, running
from pipeline.models import groundingdino_build, sam
from pipeline.models.architectures import detector_architecture, segmenter_architecture
from pipeline.models.registry import CHECKPOINTS
from tests.pipeline.redraw import redraw

BOXES = 5
TIMEOUT_S = 120
BUILD: dict[str, Callable[[], Any]] = {
    "swint": lambda: groundingdino_build.build(detector_architecture("groundingdino-swint-ogc")),
    "vit_b": lambda: sam.build(segmenter_architecture("sam-vit-b")),
}


def drawn_bundle(name: str, folder: Path) -> Path:
    """A bundle of the architecture of the registry's `name`, its weights drawn at random."""
    checkpoint = CHECKPOINTS[name]
    target = folder / f"drawn-{name}"
    target.mkdir()
    model = BUILD[name]()
    redraw(model, seed=1)
    state = model.state_dict()
    weights = target / checkpoint.file
    torch.save({"model": state} if checkpoint.kind == "detector" else state, weights)
    content = {
        "kind": checkpoint.kind,
        "architecture": checkpoint.architecture,
        "weights": checkpoint.file,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "name": target.name,
    }
    (target / "bundle.json").write_text(json.dumps(content))
    return target


def asks(case: Case, image: dict[str, str]) -> dict[str, Callable[[], tuple[str, bytes]]]:
    """Path and body of each kind of question; `image` is the known one."""
    height, width = case.size
    text = {"prompt": case.prompt, "box_threshold": 0.0, "text_threshold": 0.0, "max_detections": BOXES}
    point = {"image": image, "points": [[width / 2, height / 2, 1]]}
    return {
        "text prompt, new image": lambda: (
            "/v1/segment",
            json.dumps(json.loads(body(case.unseen(), case.prompt)) | text).encode(),
        ),
        "text prompt, known image": lambda: ("/v1/segment", json.dumps({"image": image} | text).encode()),
        "point prompt, known image": lambda: ("/v1/masks", json.dumps(point).encode()),
    }


def measure(client: httpx.Client, rounds: int) -> dict[str, list[float]]:
    """Seconds of each kind of question, one after another."""
    case = cases()[0]

    def ask(path: str, content: bytes) -> Any:
        answer = client.post(path, content=content, headers={"content-type": "application/json"})
        return answer.raise_for_status().json()

    first = asks(case, {})["text prompt, new image"]
    sent = ask(*first())
    if len(sent["detections"]) != BOXES:
        raise RuntimeError(f"{len(sent['detections'])} boxes")
    kinds = asks(case, {"type": "id", "value": sent["image"]["id"]})
    took: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, make in kinds.items():
            path, content = make()
            begin = time.perf_counter()
            ask(path, content)
            took[kind].append(time.perf_counter() - begin)
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    figures: dict[str, Any] = {"machine": report.machine(), "rounds": options.rounds}
    with TemporaryDirectory() as folder:
        detector, segmenter = (drawn_bundle(name, Path(folder)) for name in BUILD)
        settings = {"settings": {"detectors": [{"model": str(detector)}], "segmenters": [{"model": str(segmenter)}]}}
        for name, fused in (("three stages", False), ("fused", True)):
            report.say(name)
            with (
                running({**settings, "fused": fused}, {"port": free_port()}) as url,
                httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client,
            ):
                figures[name] = measure(client, options.rounds)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    rows = []
    for name in ("three stages", "fused"):
        first = median(figures[name]["text prompt, new image"])
        for kind, took in figures[name].items():
            rows.append([f"{name}: {kind}", report.spread(took, 1000), f"{first / median(took):.1f}x"])
    print(report.table((f"Swin-T + ViT-B, {BOXES} boxes, one client", "ms", "beside a new image"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
