"""Bytes that one request moves between client, ingress and stages, as Ray pickles them; counted, not timed.

The real stages answer in this process. Three stages hand all of it from process to process; fused, only the first and
the last row.
"""

from __future__ import annotations

import asyncio
import json
import time
from statistics import median
from typing import Any

from ray import cloudpickle

from benchmarks.serving import report
from benchmarks.serving.material import MODEL, Case, cases
from deployments.image_ids import ImageIds
from deployments.ingress import Ingress, Order, ServedModel
from deployments.local_stages import LocalStages
from pipeline.image import ImageLimits
from pipeline.query import read_query
from pipeline.stages import DecodeOptions
from pipeline.text_to_mask import TextToMask

HOPS = {
    "request body": "HTTP",
    "image, held once": "object store; inside messages where it is small",
    "detector's question": "message",
    "detector's answer": "message",
    "image encoder's question": "message",
    "embedding": "object store, to the decoder alone; inside messages where it is small",
    "mask decoder's question": "message",
    "mask decoder's answer": "message",
    "response body": "HTTP",
}


class _Counting:
    """A stage's method that notes what went in and what came out. `bulky` arguments travel by themselves."""

    def __init__(self, method: Any, name: str, answer: str, sizes: dict[str, int]) -> None:
        self._method, self._name, self._answer, self._sizes = method, name, answer, sizes

    async def __call__(self, bulky: Any, *rest: Any) -> Any:
        self._sizes[f"{self._name}'s question"] = _size(rest)
        value = self._method(bulky, *rest)
        self._sizes[self._answer] = _size(value)
        return value


def _size(value: Any) -> int:
    return len(cloudpickle.dumps(value, protocol=5))


class _Stages:
    """`detect`, `encode` and `decode` of a `TextToMask` as one object."""

    def __init__(self, model: TextToMask, sizes: dict[str, int]) -> None:
        self.detect = _Counting(model.detector.detect, "detector", "detector's answer", sizes)
        self.encode = _Counting(model.image_encoder.encode, "image encoder", "embedding", sizes)
        self.decode = _Counting(model.mask_decoder.decode, "mask decoder", "mask decoder's answer", sizes)


async def _one(model: TextToMask, case: Case) -> dict[str, int]:
    sizes = {"request body": len(case.body()), "image, held once": _size(case.unseen())}
    stages = _Stages(model, sizes)
    served = ServedModel(MODEL, LocalStages(stages, stages, stages))

    async def is_ready() -> bool:
        return True

    ingress = Ingress((served,), ImageLimits(), is_ready, ImageIds("not a secret"))
    detect, selection = read_query(case.prompt)
    order = Order(detect, selection, DecodeOptions())
    result = await ingress.segment(case.unseen(), order, served, time.time() + 60)
    return sizes | {"response body": len(json.dumps(result.to_json()).encode())}


def measure() -> dict[str, dict[str, float]]:
    """Median, smallest and largest over the mix, by hop, in bytes."""
    report.say("bytes moved")
    model = TextToMask.from_pretrained(MODEL)
    each = [asyncio.run(_one(model, case)) for case in cases()]
    each = [one for one in each if "mask decoder's answer" in one]
    return {
        hop: {"median": median(values), "least": min(values), "most": max(values)}
        for hop in HOPS
        for values in [[one[hop] for one in each]]
    }


def table(found: dict[str, dict[str, float]]) -> str:
    rows = [
        [hop, HOPS[hop], f"{one['median'] / 1e3:.1f} ({one['least'] / 1e3:.1f}-{one['most'] / 1e3:.1f})"]
        for hop, one in found.items()
    ]
    return report.table(("bytes a request", "goes by", "kB"), rows)
