"""Memory of many masks on a large image: `python -m benchmarks.mask_memory`. Linux only.

Each run is a process of its own: it builds the models, waits at idle, takes a 12-megapixel JPEG, and ends with 300
run-length masks. Its memory is the highest resident size on that way, less the one at idle. Three ways:

- `words`: `TextToMask.predict` with thresholds of 0, so that there are boxes enough; with SAM ViT-B, the detector is
  GroundingDINO Swin-T.
- `boxes`: `TextToMask.masks` with boxes of all sizes.
- `official`: those boxes as LangSAM asks SAM: `SamPredictor.predict_torch` with all boxes at once, which upsamples
  every mask in floats before it thresholds them. With fewer boxes, since 300 do not fit in most machines.

Full-size models have random weights. That changes neither shapes nor sizes of what is computed; only, their masks are
noise, so that their run lengths take a hundred times the room of real ones.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from pipeline.models.registry import CHECKPOINTS

SIZE = (3000, 4000)
LIMIT_GB = 1.5
DETECTORS = {"tiny": "tiny", "vit_b": "swint", "vit_l": "swinb", "vit_h": "swinb"}
Run = Callable[[bytes, Any], int]
"""Encoded image and boxes `(N, 4)` -> number of masks."""


def photograph() -> bytes:
    """A JPEG of `SIZE` with structure at every scale."""
    rng = np.random.default_rng(0)
    layers = [rng.integers(0, 256, (side * 3, side * 4, 3), dtype=np.uint8) for side in (3, 30, 300)]
    height, width = SIZE
    large = [np.asarray(Image.fromarray(layer).resize((width, height)), np.uint16) for layer in layers]
    file = BytesIO()
    Image.fromarray(np.mean(large, axis=0, dtype=np.float32).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def boxes(count: int) -> Any:
    """`(count, 4)` float32 xyxy, from a hundredth of the image to all of it."""
    rng = np.random.default_rng(1)
    extent = np.array(SIZE[::-1])
    half = rng.uniform(0.05, 0.5, (count, 1)) * extent
    center = rng.uniform(0, 1, (count, 2)) * extent
    return np.concatenate([np.clip(center - half, 0, extent), np.clip(center + half, 0, extent)], 1).astype(np.float32)


def segmenter(name: str) -> tuple[Any, Any]:
    """An official `Sam` and its hyper-parameters: the embedded weights, or random ones of a full-size model."""
    import torch

    from pipeline.bundle import load_weights, resolve
    from pipeline.models import sam
    from pipeline.models.architectures import segmenter_architecture

    torch.manual_seed(0)
    arch = segmenter_architecture(f"sam-{name.replace('_', '-')}")
    model = sam.build(arch)
    if name == "tiny":
        load_weights(model, resolve(name, "segmenter"))
    return model, arch


def detector(name: str) -> Any:
    from pipeline.bundle import OFFICIAL_VOCABULARY, Bundle, resolve
    from pipeline.detector import Detector
    from pipeline.models import groundingdino_build
    from pipeline.models.architectures import detector_architecture

    if name == "tiny":
        return Detector.from_bundle(resolve(name, "detector"))
    architecture = CHECKPOINTS[name].architecture
    bundle = Bundle(name, "detector", architecture, Path(), "", vocabulary=OFFICIAL_VOCABULARY)
    arch = detector_architecture(architecture)
    return Detector(groundingdino_build.build(arch), arch, bundle)


def text2mask(name: str) -> Any:
    from pipeline.image_encoder import ImageEncoder
    from pipeline.mask_decoder import MaskDecoder
    from pipeline.text_to_mask import TextToMask

    model, arch = segmenter(name)
    return TextToMask(detector(DETECTORS[name]), ImageEncoder(model, arch), MaskDecoder(model, arch), name)


def words(name: str) -> Run:
    from pipeline.tiny.scenes import COLOUR_NAMES, SHAPES

    model = text2mask(name)
    prompt = [f"{colour} {shape}" for colour in COLOUR_NAMES for shape in SHAPES]  # five captions for tiny

    def run(image: bytes, prompts: Any) -> int:
        result = model.predict(
            image, prompt, box_threshold=0.0, text_threshold=0.0, nms="off", max_detections=len(prompts)
        )
        return len(result.rles)

    return run


def prompted(name: str) -> Run:
    model = text2mask(name)
    return lambda image, prompts: len(model.masks(image, boxes=prompts).rles)


def official(name: str) -> Run:
    import torch
    from segment_anything import SamPredictor

    from pipeline.masks import encode

    predictor = SamPredictor(segmenter(name)[0])

    def run(image: bytes, prompts: Any) -> int:
        predictor.set_image(np.array(Image.open(BytesIO(image)).convert("RGB")))
        corners = predictor.transform.apply_boxes_torch(torch.from_numpy(prompts), SIZE)
        masks, _, _ = predictor.predict_torch(None, None, boxes=corners, multimask_output=False)
        return len([encode(mask) for mask in masks.squeeze(1).cpu().numpy()])

    return run


WAYS: dict[str, Callable[[str], Run]] = {"words": words, "boxes": prompted, "official": official}


def measure(way: str, name: str, count: int) -> None:
    """In the child: one run; prints megabytes above idle and seconds."""
    run = WAYS[way](name)
    image, prompts = photograph(), boxes(count)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # idle without what loading the model left behind
    Path("/proc/self/clear_refs").write_text("5")  # the highest resident size starts anew
    idle, start = resident("VmRSS"), time.perf_counter()
    assert run(image, prompts) == count
    seconds = time.perf_counter() - start
    print(json.dumps({"idle": idle, "above": resident("VmHWM") - idle, "seconds": seconds}))


def resident(key: str) -> float:
    """`VmRSS`, now, or `VmHWM`, the highest, of this process, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024 / 1e6
    raise LookupError(key)


def child(way: str, name: str, count: int) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.mask_memory", "--child", way]
    command += ["--segmenters", name, "--masks", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def table(name: str, masks: int, official_masks: list[int], rounds: int) -> bool:
    """Measures and prints one segmenter; whether our ways kept the limit in every round."""
    met, dense = True, {}
    for way, count in [("words", masks), ("boxes", masks), *(("official", count) for count in official_masks)]:
        runs = [child(way, name, count) for _ in range(rounds)]
        idle, above, seconds = (median(one[key] for one in runs) for key in ("idle", "above", "seconds"))
        print(f"{name:10}{way:10}{count:6}{idle / 1e3:9.2f}{above / 1e3:15.2f}{seconds:9.1f}", flush=True)
        if way == "official":
            dense[count] = above
        else:
            met &= max(one["above"] for one in runs) <= LIMIT_GB * 1e3
    if len(dense) > 1:
        few, many = min(dense), max(dense)
        slope = (dense[many] - dense[few]) / (many - few)
        total = (dense[many] + slope * (masks - many)) / 1e3
        print(f"{name:10}official: {slope:.0f} MB a mask, about {total:.0f} GB for {masks} (extrapolated)", flush=True)
    return met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segmenters", nargs="+", choices=DETECTORS, default=["tiny", "vit_b"])
    parser.add_argument("--masks", type=int, default=300)
    parser.add_argument("--official-masks", type=int, nargs="*", default=[60, 100])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        measure(args.child, args.segmenters[0], args.masks)
        return
    print(
        f"{SIZE[1]}x{SIZE[0]} JPEG -> run-length masks; medians of {args.rounds} rounds; GB are 1e9 bytes", flush=True
    )
    print(f"{'segmenter':10}{'way':10}{'masks':>6}{'idle GB':>9}{'above idle GB':>15}{'seconds':>9}", flush=True)
    met = [table(name, args.masks, args.official_masks, args.rounds) for name in args.segmenters]
    print(f"words and boxes within {LIMIT_GB} GB above idle, in every round: {'yes' if all(met) else 'NO'}")
    sys.exit(not all(met))


if __name__ == "__main__":
    main()
