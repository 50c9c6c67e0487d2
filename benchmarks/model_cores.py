"""CPU-seconds of each model's core, official code beside ours: `python -m benchmarks.model_cores`. Linux only.

Full-size GroundingDINO Swin-T (one image of 800x1066) and SAM ViT-B with weights drawn at random; one thread. Four
arms, each in a process of its own that stays, so that rounds interleave:

- `official`: the classes of groundingdino-py and segment-anything, as installed.
- `official, kept`: the same, in a process that keeps what it frees (`pipeline.allocator`).
- `ours, as installed` and `ours, kept`: what this repository runs.

Every arm's answers are compared with those of `official` first; where they differ, nothing is printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ARMS = ("official", "official, kept", "ours, as installed", "ours, kept")
STAGES = {
    "encoder": "image encoder, ViT-B",
    "detector": "detector, Swin-T, 800x1066",
    "decoder": "mask decoder, 64 boxes of 8 images",
    "masks": "16 masks to run lengths, 1200x1600",
}
TOLERANCE = 1e-3  # of the largest value: weights are random, and layers many


def official_linear(model: Any) -> None:
    """Takes back what `pipeline.models.onednn.install` did."""
    from torch import nn

    from pipeline.models import onednn

    for module in model.modules():
        if type(module) is onednn.Linear:
            module.__class__ = nn.Linear


def works(ours: bool) -> dict[str, Callable[[], Any]]:
    """For each stage, what an arm runs; it gives an array that is to be equal in all arms."""
    import torch
    from segment_anything.modeling import Sam

    from pipeline.models import architectures, sam
    from tests.pipeline.redraw import redraw

    model: Sam = sam.build(architectures.segmenter_architecture("sam-vit-b"))
    redraw(model, seed=1)
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(1, 3, 1024, 1024, generator=generator)
    embeddings = torch.randn(8, 256, 64, 64, generator=generator)
    corners = torch.rand(8, 8, 2, 2, generator=generator).sort(2).values.reshape(8, 8, 4) * 1024
    if not ours:
        official_linear(model)

    def encoder() -> Any:
        return sam.encode_images(model.image_encoder, images) if ours else model.image_encoder(images)

    return {
        "encoder": encoder,
        "detector": detector(ours),
        "decoder": decoder(model, embeddings, corners, ours),
        "masks": masks(model, ours),
    }


def detector(ours: bool) -> Callable[[], Any]:
    import torch
    from groundingdino.models.GroundingDINO.ms_deform_attn import MultiScaleDeformableAttention

    from pipeline.models import architectures, groundingdino, groundingdino_build
    from tests.pipeline.redraw import redraw

    model: Any = groundingdino_build.build(architectures.detector_architecture("groundingdino-swint-ogc"))
    redraw(model, seed=3)
    if not ours:
        official_linear(model)
        for module in model.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.__class__ = MultiScaleDeformableAttention
    image = torch.randn(1, 3, 800, 1066, generator=torch.Generator().manual_seed(4))
    padding = torch.zeros(1, 800, 1066, dtype=torch.bool)
    text = groundingdino.text_batch([(101, 2482, 1012, 5217, 1012, 102)], frozenset({101, 102, 1012, 1029}), 0)

    def run() -> Any:
        memory = groundingdino.encode(model, image, padding, text)
        logits, boxes = groundingdino.propose(model, memory)
        groundingdino.decode(model, memory, boxes, groundingdino.top_queries(model, logits))
        return memory.image  # before the top-k, where the last digit decides

    return run


def decoder(model: Any, embeddings: Any, corners: Any, ours: bool) -> Callable[[], Any]:
    """64 boxes of 8 images: an image at a time as `Sam.forward` does, or all in one ragged batch, 16 at a time."""
    import torch

    from pipeline.models import sam_decoder

    pe = model.prompt_encoder.get_dense_pe()

    def official() -> Any:
        answers = []
        for embedding, boxes in zip(embeddings, corners, strict=True):
            sparse, dense = model.prompt_encoder(points=None, boxes=boxes, masks=None)
            low, _ = model.mask_decoder(embedding[None], pe, sparse, dense, multimask_output=False)
            answers.append(low[:, 0])
        return torch.cat(answers)

    def batched() -> Any:
        answers = []
        owner = torch.arange(8).repeat_interleave(8)
        for part, index in zip(corners.flatten(0, 1).split(16), owner.split(16), strict=True):
            sparse, dense = model.prompt_encoder(points=None, boxes=part, masks=None)
            low, _ = sam_decoder.predict_masks(model.mask_decoder, embeddings, index, pe, sparse, dense)
            answers.append(low[:, 0])
        return torch.cat(answers)

    return batched if ours else official


def masks(model: Any, ours: bool) -> Callable[[], Any]:
    """Low-resolution logits of blobs, an eighth to a half of the side, to run lengths."""
    import torch
    from pycocotools import mask as coco

    from pipeline.models.sam_upsampling import full_size
    from pipeline.stages import Embedding

    rng = np.random.default_rng(5)
    y, x = np.mgrid[:256, :256]
    middle, radius = rng.uniform(40, 200, (16, 2, 1, 1)), rng.uniform(16, 64, (16, 1, 1))
    logits = (1 - ((y - middle[:, 0]) ** 2 + (x - middle[:, 1]) ** 2) / radius**2).astype(np.float32)
    size, inner = (1200, 1600), (768, 1024)
    embedding = Embedding(np.zeros((1, 1, 1), np.float32), input_size=inner, image_size=size)

    def official() -> Any:
        whole = model.postprocess_masks(torch.from_numpy(logits)[:, None], inner, size)[:, 0] > model.mask_threshold
        rles = [coco.encode(np.asfortranarray(mask.numpy())) for mask in whole]
        return torch.tensor([int(coco.area(rle)) for rle in rles])

    def cropped() -> Any:
        return torch.tensor([full_size(one, embedding, 1024)[1] for one in logits])

    return cropped if ours else official


def work(arm: str) -> None:
    """Of a worker: for each line `STAGE [FILE]` run that stage; answer its CPU-seconds, and save what it gave."""
    import torch

    from pipeline.allocator import keep_freed_memory

    warnings.filterwarnings("ignore")
    if "kept" in arm:
        keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        runs = works(arm.startswith("ours"))
        print("ready", flush=True)
        for line in sys.stdin:
            stage, *file = line.split()
            begin = time.process_time()
            answer = runs[stage]()
            seconds = time.process_time() - begin
            if file:
                np.save(file[0], answer.numpy())
            print(seconds, flush=True)


class Worker:
    """The process of an arm."""

    def __init__(self, arm: str) -> None:
        command = [sys.executable, "-m", "benchmarks.model_cores", "--worker", arm]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asked, self._answers = self._process.stdin, self._process.stdout
        self._answers.readline()

    def run(self, *words: str) -> float:
        print(*words, file=self._asked, flush=True)
        return float(self._answers.readline())

    def close(self) -> None:
        self._asked.close()
        self._process.wait()


def differences(workers: dict[str, Worker], stages: list[str]) -> dict[str, float]:
    """The largest difference of each stage in any arm from `official`, as a share of the largest value."""
    found = {}
    with TemporaryDirectory() as folder:
        for stage in stages:
            answers = {}
            for number, (arm, worker) in enumerate(workers.items()):
                file = Path(folder, f"{stage}-{number}.npy")
                worker.run(stage, str(file))
                answers[arm] = np.load(file).astype(np.float64)
            truth = answers["official"]
            found[stage] = max(float(np.abs(one - truth).max() / np.abs(truth).max()) for one in answers.values())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--worker", choices=ARMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker)
        return 0
    workers = {arm: Worker(arm) for arm in ARMS}
    off = differences(workers, arguments.stages)  # also the warm-up
    too_far = {stage: value for stage, value in off.items() if value > TOLERANCE}
    if too_far:
        print(f"answers differ, nothing is compared: {too_far}", file=sys.stderr)
        return 1
    rounds: dict[str, dict[str, list[float]]] = {stage: {arm: [] for arm in ARMS} for stage in arguments.stages}
    for _ in range(arguments.rounds):
        for stage in arguments.stages:
            for arm, worker in workers.items():
                rounds[stage][arm].append(worker.run(stage))
    for worker in workers.values():
        worker.close()
    show(rounds, off)
    if arguments.json:
        arguments.json.write_text(json.dumps({"seconds": rounds, "differences": off}, indent=2) + "\n")
    return 0


def show(rounds: dict[str, dict[str, list[float]]], off: dict[str, float]) -> None:
    table = Table("CPU-seconds, one thread", *ARMS, "as installed", "both kept", "difference")
    for stage, arms in rounds.items():
        of = {arm: median(times) for arm, times in arms.items()}
        cells = [f"{of[arm]:.2f} ({min(times):.2f}-{max(times):.2f})" for arm, times in arms.items()]
        ratios = (of["official"] / of["ours, kept"], of["official, kept"] / of["ours, kept"])
        table.add_row(STAGES[stage], *cells, *(f"{ratio:.2f}x" for ratio in ratios), f"{off[stage]:.0e}")
    Console(width=160).print(table)


if __name__ == "__main__":
    sys.exit(main())
