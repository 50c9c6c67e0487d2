"""The two kinds of worker: one has the detector, the other the image encoder and the mask decoder.

Both run the stages that the service runs, with its batches: rows of a block go through them side by side, so that
images are decoded while the model works. Encoder and decoder share a process, so an embedding never leaves it.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from deployments import metrics
from deployments.calls import Calls
from deployments.detect_first import Found, find, mask
from deployments.detector import DetectorDeployment
from deployments.image_encoder import ImageEncoderDeployment
from deployments.jobs.busy import BusyMeter
from deployments.jobs.plan import Plan
from deployments.jobs.rows import RESULTS, error_row, result_row
from deployments.local_stages import LocalStages
from deployments.mask_decoder import MaskDecoderDeployment
from pipeline.errors import StageError
from pipeline.image import read_size
from pipeline.result import assemble
from pipeline.tiling import plan as plan_tiles

FOUND = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("prompt", pa.string()),
        ("image", pa.binary()),  # null where nothing is to be masked
        ("found", pa.binary()),  # a pickled `_Half`; null on error
        ("load_ms", pa.float32()),
        ("code", pa.string()),
        ("message", pa.string()),
        ("detector_reading", pa.string()),  # in the first row of a block
    ]
)
DONE = RESULTS.append(pa.field("detector_reading", pa.string())).append(pa.field("segmenter_reading", pa.string()))

_AT_ONCE = 24  # rows of a worker under way: a batch in the model, one that waits, one that is prepared
_YEAR_S = 365 * 86400.0  # jobs have no deadline, and the calls to stages have one always


@dataclass(frozen=True, slots=True)
class _Half:
    """What the detector's worker hands on."""

    found: Found
    detect_ms: float


class Worker:
    """Rows side by side on an event loop of its own, which blocks share."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stages = self.load(plan)
        self.meter = BusyMeter()  # from here on: the models are warm
        metrics.send_to(self.meter)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="rows", daemon=True).start()
        self._places = asyncio.Semaphore(_AT_ONCE)

    def load(self, plan: Plan) -> LocalStages:
        """The stages that this kind of worker has."""
        raise NotImplementedError

    def each(self, rows: pa.Table, work: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]) -> list[Any]:
        async def one(number: int) -> dict[str, Any]:
            async with self._places:
                row: dict[str, Any] = rows.slice(number, 1).to_pylist()[0]  # an image's bytes only when it is its turn
                return await work(row)

        async def every() -> list[dict[str, Any]]:
            return await asyncio.gather(*(one(number) for number in range(len(rows))))

        return asyncio.run_coroutine_threadsafe(every(), self._loop).result()


class DetectorWorker(Worker):
    """Blocks of loaded rows -> blocks of `FOUND`."""

    def load(self, plan: Plan) -> LocalStages:
        return LocalStages(DetectorDeployment(plan.detector.bundle, plan.detector.deployment), None, None)

    def __call__(self, rows: pa.Table) -> pa.Table:
        found = self.each(rows, self._find)
        if found:
            found[0]["detector_reading"] = self.meter.reading()
        return pa.Table.from_pylist(found, FOUND)

    async def _find(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["code"] is not None:
            return {**row, "image": None}
        image, deadline = row["image"], time.time() + _YEAR_S
        try:
            asked = self.plan.asked(row["prompt"])
            size = read_size(image, self.plan.limits)
            tiling = plan_tiles(size, self.plan.tile, self.plan.short_side, asked.request)
            with Calls(self.stages, image, image, None, deadline) as calls:
                found = await find(calls, tiling, asked.request, asked.selection)
                half = _Half(found, calls.timings.milliseconds("detect")["detect"])
        except StageError as error:
            return {**row, "image": None, "code": error.code, "message": _said(error)}
        wanted = self.plan.decode is not None and len(found) > 0
        return {**row, "image": image if wanted else None, "found": pickle.dumps(half)}


class SegmenterWorker(Worker):
    """Blocks of `FOUND` -> blocks of `DONE`. Rows without a box pass through."""

    def load(self, plan: Plan) -> LocalStages:
        if plan.decode is None:
            return LocalStages(None, None, None)
        bundle = plan.segmenter.bundle
        encoder = ImageEncoderDeployment(bundle, plan.segmenter.image_encoder)
        return LocalStages(None, encoder, MaskDecoderDeployment(bundle, plan.segmenter.mask_decoder))

    def __call__(self, rows: pa.Table) -> pa.Table:
        done = self.each(rows, self._mask)
        if done:
            done[0]["segmenter_reading"] = self.meter.reading()
        return pa.Table.from_pylist(done, DONE)

    async def _mask(self, row: dict[str, Any]) -> dict[str, Any]:
        named = (row["id"], row["path"], row["prompt"])
        kept = {"detector_reading": row["detector_reading"]}
        timings_ms = {"load": row["load_ms"]}
        if row["code"] is not None:
            return error_row(*named, row["code"], row["message"], timings_ms) | kept
        half: _Half = pickle.loads(row["found"])  # written by the other kind of worker, a moment ago
        timings_ms["detect"] = half.detect_ms
        asked = self.plan.asked(row["prompt"])
        deadline = time.time() + _YEAR_S
        try:
            with Calls(self.stages, row["image"], row["image"], None, deadline) as calls:
                boxes, removed, masks = await mask(calls, half.found, asked.selection, self.plan.decode, deadline)
                timings_ms |= calls.timings.milliseconds("encode", "masks")
        except StageError as error:
            return error_row(*named, error.code, _said(error), timings_ms) | kept
        timings_ms["total"] = sum(spent for name, spent in timings_ms.items() if name != "total")
        result = assemble(asked.request, boxes, removed, masks, model=self.plan.model, timings_ms={})
        return result_row(*named, result, timings_ms) | kept


def _said(error: StageError) -> str:
    return error.message if error.param in (None, "image") else f"{error.param}: {error.message}"
