"""The image encoder and the detector, each alone: tensors in, tensors out, on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.measure import Bench, off
from benchmarks.gpu.models import official_detector, official_sam, ours
from pipeline.detector import Detector, DetectorItem
from pipeline.models import groundingdino, sam
from pipeline.models.buckets import Bucketed
from pipeline.models.precision import DTYPES, Precision, lower
from pipeline.prompt import parse_classes
from pipeline.stages import DetectRequest
from tests.pipeline.judge import photo

EXACT, LOWER = 2e-3, 5e-2  # tolerances; a GPU's own float32 convolutions round to ten bits


def encoder(bench: Bench, name: str) -> None:
    """SAM's image encoder, called `name`."""
    scene = bench.scene
    model, arch = official_sam(scene, name)
    random = torch.Generator().manual_seed(2)
    most = scene.batches[-1]
    images = torch.randn(most, 3, arch.image_size, arch.image_size, generator=random).to(scene.device)
    official = model.image_encoder
    expected = torch.cat([official(images[i : i + 1]) for i in range(most)])

    def add(arm: str, batch: int, make: Callable[[], Callable[[torch.Tensor], torch.Tensor]], tolerance: float) -> None:
        bench.arm(arm, batch, lambda: partial(make(), images[:batch]), lambda a: off(a, expected[:batch]), tolerance)

    add("official", 1, lambda: official, EXACT)
    plain = ours(official)
    add("float32", most, lambda: partial(sam.encode_images, plain), EXACT)
    lower(plain, DTYPES["bfloat16"])
    for batch in scene.batches:
        add("bfloat16", batch, lambda: partial(sam.encode_images, plain), LOWER)
    add("bfloat16, bias", most, lambda: partial(sam.encode_images, plain, way="bias"), LOWER)

    def ready(compiled: Any, batch: int) -> Bucketed:
        return Bucketed(partial(sam.encode_images, plain), compiled, images[:1], tolerance=LOWER, buckets=[batch])

    for batch in scene.batches:
        add("bfloat16, recorded", batch, partial(ready, None, batch), LOWER)
    if not scene.tiny:  # each takes a minute or so
        for batch in scene.batches:
            add("bfloat16, compiled, recorded", batch, partial(ready, sam.compiled(plain), batch), LOWER)


def detector(bench: Bench) -> None:
    """GroundingDINO: images and captions to logits and boxes, host to host."""
    scene = bench.scene
    model, arch, bundle = official_detector(scene)
    request = DetectRequest(parse_classes(list(scene.texts)))
    caption = " . ".join(scene.texts) + " ."
    most = scene.batches[-1]

    def build(precision: Precision) -> Detector:
        return Detector(ours(model), arch, bundle, scene.device, precision)

    preparing = build("float32")
    items = [preparing.prepare(photo(*scene.detector_size, seed), request) for seed in range(most)]
    preparing.normalises_on_device = False  # for the official code
    theirs = [preparing.prepare(photo(*scene.detector_size, seed), request) for seed in range(most)]
    del preparing
    expected = torch.cat([official_memory(model, item, caption, scene.device) for item in theirs])

    def official() -> Any:
        return official_answer(model, theirs[0], caption, scene.device)

    bench.arm("official", 1, lambda: official)
    for precision, tolerance in (("float32", EXACT), ("bfloat16", LOWER)):
        try:
            one = build(precision)  # type: ignore[arg-type]  # of two literals
        except Exception as error:
            bench.arm(precision, most, partial(_raise, error))
            continue
        for batch in scene.batches:

            def run(one: Detector = one, batch: int = batch) -> Any:
                return one.forward(items[:batch])

            def differs(answer: Any, one: Detector = one, batch: int = batch) -> float:
                if not complete(answer, batch):
                    return float("nan")
                return off(our_memory(one, items[:batch], scene.device), expected[:batch])

            bench.arm(precision, batch, lambda run=run: run, differs, tolerance)  # type: ignore[misc]


def _raise(error: Exception) -> Any:
    raise error


def official_answer(model: Any, item: DetectorItem, caption: str, device: str) -> Any:
    from groundingdino.util.misc import NestedTensor

    images = torch.from_numpy(item.pixels)[None].to(device)
    padding = torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.bool, device=device)
    out = model(NestedTensor(images, padding), captions=[caption])
    return out["pred_logits"].sigmoid().cpu().numpy(), out["pred_boxes"].cpu().numpy()


def official_memory(model: Any, item: DetectorItem, caption: str, device: str) -> torch.Tensor:
    """What its encoder made of the image: before the top-k, where the last digit decides."""
    seen: list[torch.Tensor] = []
    hook = model.transformer.encoder.register_forward_hook(lambda *call: seen.append(call[2][0]))
    official_answer(model, item, caption, device)
    hook.remove()
    return seen[0]


def complete(answer: Any, batch: int) -> bool:
    """Whether there are scores and boxes for every image, all of them numbers. Which queries are the best is not asked:
    with random weights the last digit decides."""
    each = [scores for one in answer for scores in one]
    return len(each) == batch and all(
        len(one.boxes) == len(one.tokens) > 0 and np.isfinite(one.boxes).all() and np.isfinite(one.tokens).all()
        for one in each
    )


def our_memory(one: Detector, items: list[DetectorItem], device: str) -> torch.Tensor:
    images = one._normalised(torch.from_numpy(np.stack([item.pixels for item in items])).to(device), items)
    padding = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool, device=device)
    ids = [item.captions[0].token_ids for item in items]
    text = groundingdino.text_batch(ids, one._separators, one.tokenizer.pad_id).to(device)
    return groundingdino.encode(one.model, images, padding, text).image
