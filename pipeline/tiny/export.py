"""Turns trained weights into the two embedded bundles: `python -m pipeline.tiny.export detector WEIGHTS.pt`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipeline.models import groundingdino_build, sam
from pipeline.models.architectures import detector_architecture, segmenter_architecture
from pipeline.models.weights import sha256_of
from pipeline.tiny.phrases import VOCABULARY

FOLDER = Path(__file__).parent
SETTINGS: dict[str, dict[str, Any]] = {
    "detector": {
        "name": "tiny",
        "kind": "detector",
        "architecture": "groundingdino-tiny",
        "weights": "model.safetensors",
        "sha256": "",
        "vocabulary": "vocab.txt",
        "max_tokens": 48,
        "box_threshold": 0.3,
        "text_threshold": 0.25,
        "licence": "Apache-2.0",
    },
    "segmenter": {
        "name": "tiny",
        "kind": "segmenter",
        "architecture": "sam-tiny",
        "weights": "model.safetensors",
        "sha256": "",
        "licence": "Apache-2.0",
    },
}


def export(kind: str, weights: Path) -> None:
    """Writes `pipeline/tiny/{kind}`: weights in half precision, each tensor once, the vocabulary and `bundle.json`."""
    folder = FOLDER / kind
    folder.mkdir(exist_ok=True)
    model = (
        groundingdino_build.build(detector_architecture("groundingdino-tiny"))
        if kind == "detector"
        else sam.build(segmenter_architecture("sam-tiny"))
    )
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    compact: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict().items():  # a shared tensor has several names and one address
        compact.setdefault(tensor.data_ptr(), (name, tensor.half() if tensor.is_floating_point() else tensor.short()))
    save_file({name: tensor.contiguous() for name, tensor in compact.values()}, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)
    settings = SETTINGS[kind] | {"sha256": sha256_of(folder / "model.safetensors")}
    (folder / "bundle.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    if "vocabulary" in settings:
        (folder / settings["vocabulary"]).write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=SETTINGS)
    parser.add_argument("weights", type=Path)
    arguments = parser.parse_args()
    export(arguments.kind, arguments.weights)
