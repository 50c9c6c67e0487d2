"""A second prompt on an image: how often the models run, with the real stages and without Ray."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.image_ids import ImageId, ImageIds
from deployments.ingress import Ingress, MaskOrder, Order, ServedModel
from deployments.stage_settings import DetectorSettings, ImageEncoderSettings, MaskDecoderSettings
from pipeline.bundle import resolve
from pipeline.image import ImageLimits
from pipeline.mask_prompts import parse_mask_prompts
from pipeline.prompt import parse_classes
from pipeline.selection import SelectionOptions
from pipeline.stages import DecodeOptions, DetectRequest, Embedding
from tests.deployments.fakes import LocalCall, picture

pytest.importorskip("torch")

from deployments.detector import DetectorDeployment
from deployments.image_encoder import ImageEncoderDeployment
from deployments.mask_decoder import MaskDecoderDeployment
from deployments.refusals import raised

PICTURE = (Path(__file__).parents[2] / "pipeline" / "tiny" / "demo.png").read_bytes()
FAR = 2e9  # Unix time, in 2033


class LocalStages:
    """The three deployments in this process; `runs` counts the items that their models were given."""

    def __init__(self, cache_bytes: int) -> None:
        one_thread: dict[str, Any] = {"threads": 1}
        self.detector = DetectorDeployment(resolve("tiny", "detector"), DetectorSettings(**one_thread))
        segmenter = resolve("tiny", "segmenter")
        self.encoder = ImageEncoderDeployment(segmenter, ImageEncoderSettings(cache_bytes=cache_bytes, **one_thread))
        self.decoder = MaskDecoderDeployment(segmenter, MaskDecoderSettings(**one_thread))
        self.runs: Counter[str] = Counter()
        for name in ("detector", "encoder", "decoder"):
            self._count(name)

    def _count(self, name: str) -> None:
        batcher = getattr(self, name)._runner._batcher
        forward = batcher._forward

        def counted(items: Any) -> Any:
            self.runs[name] += len(items)
            return forward(items)

        batcher._forward = counted

    def hold(self, image: bytes) -> bytes:
        return image

    def detect(self, image: bytes, request: DetectRequest, deadline: float | None) -> LocalCall[Any]:
        return _call(self.detector.detect(image, request, deadline))

    def encode(self, image: bytes, key: str | None, region: Any, deadline: float | None) -> LocalCall[Any]:
        return _call(self.encoder.encode(image, key, region, deadline))

    def recall(self, key: str) -> LocalCall[bytes]:
        return _call(self.encoder.recall(key))

    def decode(self, embedding: Any, prompts: Any, options: DecodeOptions, deadline: float | None) -> LocalCall[Any]:
        async def after() -> Any:
            return await self.decoder.decode(await embedding, prompts, options, deadline)

        return _call(after())


def _call(answer: Awaitable[Any]) -> LocalCall[Any]:
    async def value() -> Any:
        return raised(await answer)

    return LocalCall(value())


class Asker:
    """An ingress over `stages`."""

    def __init__(self, stages: LocalStages, **options: Any) -> None:
        async def is_ready() -> bool:
            return True

        self.asked = 0
        self.model = ServedModel("tiny+tiny", stages, short_side=160)
        self.ingress = Ingress((self.model,), ImageLimits(), is_ready, ImageIds("a secret"), **options)

    def deadline(self) -> float:
        """Later from call to call, as it is for requests that come one after the other."""
        self.asked += 1
        return FAR + self.asked

    async def text(self, image: bytes | ImageId, prompt: str, tenant: str = "") -> Any:
        order = Order(DetectRequest(parse_classes(prompt)), SelectionOptions(), DecodeOptions())
        return await self.ingress.segment(image, order, self.model, self.deadline(), tenant)

    async def point(self, image: bytes | ImageId, x: float, y: float) -> Any:
        options = DecodeOptions()
        order = MaskOrder(parse_mask_prompts(None, [[x, y, 1]], None, options), options)
        return await self.ingress.masks(image, order, self.model, self.deadline())


@pytest.fixture(scope="module")
def stages() -> LocalStages:
    return LocalStages(cache_bytes=64 * 2**20)


@pytest.fixture
def runs(stages: LocalStages) -> Counter[str]:
    stages.runs.clear()
    stages.encoder._cache = type(stages.encoder._cache)(64 * 2**20)
    return stages.runs


def test_a_text_again_encodes_nothing_and_a_point_again_detects_nothing_either(
    stages: LocalStages, runs: Counter[str]
) -> None:
    async def ask() -> None:
        asker = Asker(stages)
        first = await asker.text(PICTURE, "red circle")
        assert len(first) == 1
        assert runs == {"detector": 1, "encoder": 1, "decoder": 1}
        image = ImageId(first.image_id)
        runs.clear()
        assert await asker.text(image, "red circle") == first
        assert runs == {"detector": 1, "decoder": 1}
        runs.clear()
        assert await asker.text(PICTURE, "red circle") == first  # the bytes again: known by their content
        assert runs == {"detector": 1, "decoder": 1}
        runs.clear()
        x0, y0, x1, y1 = first.boxes[0].tolist()
        assert (await asker.point(image, (x0 + x1) / 2, (y0 + y1) / 2)).areas[0] > 0
        assert runs == {"decoder": 1}

    asyncio.run(ask())


def test_one_image_of_many_callers_is_encoded_once(stages: LocalStages, runs: Counter[str]) -> None:
    async def ask() -> None:
        asker = Asker(stages)
        answers = await asyncio.gather(*(asker.point(PICTURE, 20 + i, 30) for i in range(12)))
        assert len({answer.image_id for answer in answers}) == 1
        assert runs == {"encoder": 1, "decoder": 12}

    asyncio.run(ask())


def test_tenants_share_nothing(stages: LocalStages, runs: Counter[str]) -> None:
    async def ask() -> None:
        asker = Asker(stages)
        mine = await asker.text(PICTURE, "star", "alice")
        theirs = await asker.text(PICTURE, "star", "bob")
        assert mine.image_id != theirs.image_id
        assert runs["encoder"] == 2
        for tenant in ("bob", ""):
            with pytest.raises(Exception, match="image_not_cached"):
                await asker.text(ImageId(mine.image_id), "star", tenant)
        assert await asker.text(ImageId(mine.image_id), "star", "alice") == mine

    asyncio.run(ask())


def test_an_image_that_was_pushed_out_is_not_known(stages: LocalStages, runs: Counter[str]) -> None:
    async def ask() -> None:
        asker = Asker(stages)
        first = await asker.text(PICTURE, "star")
        large = Embedding(np.zeros(64 * 2**20 - 4096, np.uint8), (1, 1), (1, 1))
        stages.encoder._cache.keep("another", b"", None, large)
        with pytest.raises(Exception, match="image_not_cached"):
            await asker.text(ImageId(first.image_id), "star")

    asyncio.run(ask())


def test_detect_first_encodes_nothing_where_nothing_is_found(stages: LocalStages, runs: Counter[str]) -> None:
    async def ask() -> None:
        asker = Asker(stages, detect_first=True)
        assert len(await asker.text(picture((64, 64)), "red circle")) == 0
        assert runs == {"detector": 1}
        assert len(await asker.text(PICTURE, "red circle")) == 1
        assert runs == {"detector": 2, "encoder": 1, "decoder": 1}

    asyncio.run(ask())


def test_where_nothing_is_found_an_encoding_that_has_not_begun_never_begins(
    stages: LocalStages, runs: Counter[str]
) -> None:
    """The encoder's model is busy with another image until the answer is there."""

    async def ask() -> None:
        loop, busy, go_on = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        forward = stages.encoder._runner._batcher._forward

        def slow(items: Any) -> Any:
            loop.call_soon_threadsafe(busy.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(60)
            return forward(items)

        stages.encoder._runner._batcher._forward = slow
        try:
            asker = Asker(stages)
            other = asyncio.create_task(asker.point(PICTURE, 20, 30))
            await busy.wait()
            assert len(await asker.text(picture((64, 64)), "red circle")) == 0
            go_on.set()
            await other
        finally:
            stages.encoder._runner._batcher._forward = forward
        assert runs["encoder"] == 1
        await asker.text(PICTURE, "red circle")
        assert runs["encoder"] == 1

    asyncio.run(ask())
