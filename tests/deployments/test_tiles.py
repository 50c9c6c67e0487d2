"""A large image through the ingress and over HTTP: stages that know the truth answer by tiles as the reference does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest

from deployments.image_ids import ImageIds
from deployments.ingress import Ingress, Order, ServedModel
from deployments.retry import StageLostError
from deployments.tiles import AT_ONCE
from pipeline.errors import StageError
from pipeline.image import ImageLimits, decode
from pipeline.masks import encode
from pipeline.prompt import parse_classes
from pipeline.result import Result
from pipeline.selection import SelectionOptions
from pipeline.stages import DecodeOptions, Detections, DetectRequest, Embedding, MaskPrompts, Masks, Region
from pipeline.tiling import TileSize
from tests.deployments.fakes import LocalCall, base64, picture
from tests.deployments.service import Service, refusal
from tests.pipeline.oracle import Oracle, Thing

T = TypeVar("T")
SIZE = (230, 290)
TILE = TileSize(100, 40)
REGIONS = 4 * 5


class OracleStages:
    """An `Oracle` behind the calls that the ingress makes. A call starts as a task, or fails as `failures` says.

    Attributes:
        now, most: calls of each stage that are, or were at most, under way at the same time.
        held: pictures that were put where the stages can fetch them.
    """

    def __init__(self, oracle: Oracle, failures: Sequence[tuple[str, Exception]] = ()) -> None:
        self.oracle = oracle
        self.most: dict[str, int] = {}
        self.held = 0
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.now = dict.fromkeys(("detect", "encode", "decode"), 0)
        self._failures = list(failures)
        self.gate: Callable[[str], Awaitable[None]] | None = None

    def hold(self, image: bytes) -> bytes:
        self.held += 1
        return image

    def detect(self, image: bytes, request: DetectRequest, deadline: float | None) -> LocalCall[Detections]:
        async def answer() -> Detections:
            return self.oracle.detect(decode(image), request)

        return LocalCall(self._run("detect", answer))

    def encode(
        self, image: bytes, key: str | None, region: Region | None, deadline: float | None
    ) -> LocalCall[Embedding]:
        async def answer() -> Embedding:
            return self.oracle.encode(decode(image), key, region)

        return LocalCall(self._run("encode", answer))

    def recall(self, key: str) -> LocalCall[bytes]:
        raise AssertionError("no image is asked for by id here")

    def decode(
        self, embedding: LocalCall[Embedding], prompts: MaskPrompts, options: DecodeOptions, deadline: float | None
    ) -> LocalCall[Masks]:
        async def answer() -> Masks:
            return self.oracle.decode(await embedding, prompts, options)

        return LocalCall(self._run("decode", answer))

    async def _run(self, stage: str, answer: Callable[[], Awaitable[T]]) -> T:
        self.started.append(stage)
        self.now[stage] += 1
        self.most[stage] = max(self.most.get(stage, 0), self.now[stage])
        failure = self._failures.pop(0)[1] if self._failures and self._failures[0][0] == stage else None
        try:
            for _ in range(3):
                await asyncio.sleep(0)  # others get their turn, so that what can run at the same time does
            if self.gate is not None:
                await self.gate(stage)
            if failure is not None:
                raise failure
            return await answer()
        except asyncio.CancelledError:
            self.cancelled.append(stage)
            raise
        finally:
            self.now[stage] -= 1


def scene(count: int = 14) -> list[Thing]:
    """Rectangles of two classes, of all sizes, that share no pixel."""
    rng = np.random.default_rng(5)
    taken = np.zeros(SIZE, np.bool_)
    drawn: list[Thing] = []
    while len(drawn) < count:
        y0, x0 = (int(rng.integers(0, side - 10)) for side in SIZE)
        h, w = rng.integers(8, 170, 2)
        mask = np.zeros(SIZE, np.bool_)
        mask[y0 : y0 + h, x0 : x0 + w] = True
        if not (mask & taken).any():
            taken |= mask
            drawn.append(Thing(mask, len(drawn) % 2, 0.95 - 0.03 * len(drawn)))
    return drawn


def run(test: Callable[[], Awaitable[T]]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(60):
            return await test()

    return asyncio.run(limited())


async def never_asked() -> bool:
    raise AssertionError


async def segment(
    stages: OracleStages, *, masks: bool = True, timeout_s: float = 50, tile: Any = TILE, size: tuple[int, int] = SIZE
) -> Result:
    model = ServedModel("oracle", stages, short_side=100)
    order = Order(
        DetectRequest(parse_classes(["a", "b"])), SelectionOptions(nms="off"), DecodeOptions() if masks else None, tile
    )
    ingress = Ingress((model,), ImageLimits(), never_asked, ImageIds("a secret"))
    return await ingress.segment(picture(size), order, model, time.time() + timeout_s)


def test_the_answer_is_that_of_the_reference() -> None:
    drawn = scene()
    stages = OracleStages(Oracle(drawn))
    result = run(lambda: segment(stages))
    blank = np.zeros((*SIZE, 3), np.uint8)
    assert result == Oracle(drawn).model().predict(blank, ["a", "b"], nms="off", tile={"size": 100, "overlap": 40})
    assert result.rles == tuple(encode(thing.mask) for thing in drawn)
    assert set(result.timings_ms) == {"detect", "encode", "masks", "total"}
    assert len(stages.oracle.seen["detect"]) == REGIONS
    assert stages.held == 1
    assert stages.cancelled == []


def test_pieces_beyond_the_most_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.seams.MAX_PIECES", 9)
    result = run(lambda: segment(OracleStages(Oracle(scene()))))
    blank = np.zeros((*SIZE, 3), np.uint8)
    tile = {"size": TILE.size, "overlap": TILE.overlap}
    assert result == Oracle(scene()).model().predict(blank, ["a", "b"], nms="off", tile=tile)
    assert result.removed["cap"] > 0


def test_a_few_tiles_at_a_time() -> None:
    stages = OracleStages(Oracle(scene()))
    run(lambda: segment(stages))
    assert stages.most["detect"] == stages.most["encode"] == AT_ONCE < REGIONS
    assert stages.most["decode"] <= AT_ONCE


def test_only_tiles_with_something_in_them_are_encoded() -> None:
    stages = OracleStages(Oracle(scene(1)))
    run(lambda: segment(stages))
    encoded = stages.oracle.seen["encode"]
    assert 0 < len(encoded) < REGIONS
    assert encoded == stages.oracle.seen["decode"]


def test_boxes_alone() -> None:
    drawn = [thing for thing in scene() if thing.mask.sum() < 2000]
    stages = OracleStages(Oracle(drawn))
    result = run(lambda: segment(stages, masks=False))
    assert result.rles is None
    assert result.scores.tolist() == [np.float32(thing.score) for thing in drawn]
    assert stages.oracle.seen["encode"] == []


@pytest.mark.parametrize("stage", ["detect", "encode", "decode"])
def test_what_was_lost_runs_again_for_its_tile_only(stage: str) -> None:
    undisturbed = OracleStages(Oracle(scene()))
    expected = run(lambda: segment(undisturbed))
    stages = OracleStages(Oracle(scene()), [(stage, StageLostError(input_lost=stage == "encode"))])
    assert run(lambda: segment(stages)) == expected
    again = {name: stages.started.count(name) - undisturbed.started.count(name) for name in undisturbed.most}
    assert again == {"detect": 0, "encode": 0, "decode": 0} | {stage: 1} | ({"decode": 1} if stage == "encode" else {})


@pytest.mark.parametrize("stage", ["detect", "encode", "decode"])
def test_a_failure_gives_up_the_rest(stage: str) -> None:
    stages = OracleStages(Oracle(scene()), [(stage, StageError("internal", "no"))])

    async def test() -> None:
        with pytest.raises(StageError, match="no"):
            await segment(stages)
        started = len(stages.started)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(stages.started) == started  # nothing begins afterwards
        assert not any(stages.now.values())  # and nothing goes on

    run(test)


@pytest.mark.parametrize("stage", ["detect", "encode", "decode"])
def test_a_caller_who_leaves_takes_all_tiles_along(stage: str) -> None:
    async def test() -> None:
        stages = OracleStages(Oracle(scene()))
        here = asyncio.Event()

        async def gate(name: str) -> None:
            if name == stage:
                here.set()
                await asyncio.Event().wait()

        stages.gate = gate
        request = asyncio.create_task(segment(stages))
        await here.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        started = len(stages.started)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(stages.started) == started
        assert stage in stages.cancelled
        assert not any(stages.now.values())

    run(test)


def test_the_deadline_ends_it() -> None:
    async def test() -> None:
        stages = OracleStages(Oracle(scene()))
        stages.gate = lambda _: asyncio.Event().wait()  # type: ignore[assignment,return-value]
        with pytest.raises(TimeoutError):
            await segment(stages, timeout_s=0.2)

    run(test)


def test_too_many_tiles_are_refused_before_anything_runs() -> None:
    stages = OracleStages(Oracle(scene()))
    with pytest.raises(StageError) as refused:
        run(lambda: segment(stages, tile=TileSize(64, 32), size=(700, 700)))
    assert refused.value.param == "tile"
    assert stages.started == []


def test_an_image_that_fits_is_left_whole() -> None:
    stages = OracleStages(Oracle(scene()))
    result = run(lambda: segment(stages, tile="auto"))
    assert stages.oracle.seen["detect"] == stages.oracle.seen["encode"] == [None]
    assert len(result) == 14


def regions_asked(response: httpx.Response, service: Service) -> list[Region | None]:
    assert response.status_code == 200, response.text
    assert response.json()["passes"] == len(service.stages.requests)
    return [request.region for request in service.stages.requests]


def test_over_http_as_json_and_as_a_form() -> None:
    large = picture((64, 112))
    tiles = [(0, 0, 64, 64), (24, 0, 88, 64), (48, 0, 112, 64)]
    image: dict[str, Any] = {"image": base64(large), "prompt": "nothing"}
    for tile, text, regions in (
        ({"size": 64, "overlap": 32}, ' {"size": 64, "overlap": 32}', tiles),
        ("auto", "auto", [None]),
        (None, None, [None]),
    ):
        service = Service()
        assert regions_asked(service.json(**image, tile=tile), service) == regions
        if text is not None:
            service = Service()
            assert regions_asked(service.form(large, prompt="nothing", tile=text), service) == regions


@pytest.mark.parametrize(
    ("tile", "param"),
    [
        ("AUTO", "tile"),
        (5, "tile"),
        ([], "tile"),
        ({}, "tile.size"),
        ({"size": 64}, "tile.overlap"),
        ({"size": 64.5, "overlap": 20}, "tile.size"),
        ({"size": 64, "overlap": True}, "tile.overlap"),
        ({"size": "64", "overlap": 20}, "tile.size"),
        ({"size": 63, "overlap": 20}, "tile.size"),
        ({"size": 4097, "overlap": 20}, "tile.size"),
        ({"size": 64, "overlap": 15}, "tile.overlap"),
        ({"size": 64, "overlap": 33}, "tile.overlap"),
        ({"size": 64, "overlap": 10**30}, "tile.overlap"),
        ({"size": 64, "overlap": 20, "more": 1}, "tile.more"),
    ],
)
def test_other_tiles_are_422(tile: Any, param: str) -> None:
    assert refusal(Service().json(tile=tile), 422, "invalid_value")["param"] == param
    if not isinstance(tile, (int, list)):
        text = tile if isinstance(tile, str) else json.dumps(tile)
        assert refusal(Service().form(tile=text), 422, "invalid_value")["param"] == param


def test_raw_mode_is_of_whole_images() -> None:
    assert refusal(Service().json(tile="auto", raw=True), 422, "invalid_value")["param"] == "tile"
