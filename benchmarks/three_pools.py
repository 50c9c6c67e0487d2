"""A job whose image encoder and mask decoder are pools of their own: `deployments.jobs` has them in one, by this."""

from __future__ import annotations

import pickle
from typing import Any

import pyarrow as pa

from deployments.image_encoder import ImageEncoderDeployment
from deployments.jobs.dataset import Step, steps
from deployments.jobs.halves import FOUND, SegmenterWorker, Worker
from deployments.jobs.plan import Plan, Pool, Pools
from deployments.local_stages import LocalStages
from deployments.mask_decoder import MaskDecoderDeployment
from pipeline.stages import Embedding

ENCODED = FOUND.append(pa.field("embedding", pa.binary())).append(pa.field("encoder_reading", pa.string()))


class EncoderWorker(Worker):
    """Blocks of `FOUND` -> blocks of `ENCODED`: where something is to be masked, the embedding for the image."""

    def load(self, plan: Plan) -> LocalStages:
        return LocalStages(None, ImageEncoderDeployment(plan.segmenter.bundle, plan.segmenter.image_encoder), None)

    def __call__(self, rows: pa.Table) -> pa.Table:
        done = self.each(rows, self._encode)
        return pa.Table.from_pylist(done, ENCODED)

    async def _encode(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["image"] is None:
            return row
        embedding = await self.stages.encode(row["image"], None, None, None)
        return {**row, "image": b"", "embedding": pickle.dumps(embedding, protocol=5)}


class _Known:
    """Stands for the image encoder: it has the embedding already."""

    async def encode(self, image: bytes, *_: object) -> Embedding:
        embedding: Embedding = pickle.loads(image)
        return embedding


class DecoderWorker(SegmenterWorker):
    """Blocks of `ENCODED` -> blocks of `DONE`."""

    def load(self, plan: Plan) -> LocalStages:
        decoder = MaskDecoderDeployment(plan.segmenter.bundle, plan.segmenter.mask_decoder)
        return LocalStages(None, _Known(), decoder)

    def __call__(self, rows: pa.Table) -> pa.Table:
        embedded = rows.set_column(rows.schema.get_field_index("image"), "image", rows["embedding"])
        return super().__call__(embedded.select(FOUND.names))


def three_pools(plan: Plan) -> list[Step]:
    """One worker of each."""
    detector, _ = steps(plan, Pools())
    segmenter = plan.segmenter
    return [
        detector,
        Step(EncoderWorker, Pool(), [segmenter.image_encoder]),
        Step(DecoderWorker, Pool(), [segmenter.mask_decoder]),
    ]
