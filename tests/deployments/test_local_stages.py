"""Stages in the ingress's process: calls that behave as those to replicas do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from deployments.catalogue import Catalogue, OfferedDetector, OfferedSegmenter
from deployments.fused import placement
from deployments.local_stages import LocalStages
from deployments.refusals import as_value
from deployments.settings import SettingsError
from deployments.stage_settings import DetectorSettings, ImageEncoderSettings, IngressSettings, MaskDecoderSettings
from pipeline.bundle import Bundle
from pipeline.errors import StageError

REFUSAL = StageError("image_undecodable", "no")


class Stage:
    """All stage methods; each does what it is told, and tells what it was given."""

    def __init__(self, work: Callable[..., Awaitable[Any]]) -> None:
        self.detect = self.encode = self.recall = self.decode = as_value(work)


def stages(**works: Callable[..., Awaitable[Any]]) -> LocalStages:
    async def echo(*given: Any) -> Any:
        return given

    made = [Stage(works.get(name, echo)) for name in ("detect", "encode", "decode")]
    return LocalStages(*made)


def call(name: str, local: LocalStages) -> Any:
    request: Any = "request"
    match name:
        case "detect":
            return local.detect(b"image", request, 5.0)
        case "encode":
            return local.encode(b"image", "key", None, 5.0)
        case _:
            return local.recall("key")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("detect", (b"image", "request", 5.0)),
        ("encode", (b"image", "key", None, 5.0)),
        ("recall", ("key",)),
    ],
)
def test_what_is_asked_arrives(name: str, given: tuple[Any, ...]) -> None:
    async def work() -> None:
        pending = call(name, stages())
        await pending.ready()
        assert await pending == given
        assert await pending == given

    asyncio.run(work())


def test_a_refusal_is_raised_where_it_is_awaited() -> None:
    async def refuse(*_: Any) -> Any:
        raise REFUSAL

    async def work() -> None:
        pending = call("detect", stages(detect=refuse))
        for waiting in (pending.ready(), pending):
            with pytest.raises(StageError, match="no"):
                await waiting

    asyncio.run(work())


def test_a_refused_embedding_refuses_the_masks_and_the_decoder_is_not_asked() -> None:
    asked = []

    async def refuse(*_: Any) -> Any:
        raise REFUSAL

    async def decode(*given: Any) -> None:
        asked.append(given)

    async def work() -> None:
        local = stages(encode=refuse, decode=decode)
        nothing: Any = None
        with pytest.raises(StageError, match="no"):
            await local.decode(call("encode", local), nothing, nothing, None)

    asyncio.run(work())
    assert asked == []


def test_decoding_waits_for_the_embedding_and_gets_the_thing_itself() -> None:
    embedding = object()

    async def encode(*_: Any) -> Any:
        await asyncio.sleep(0)
        return embedding

    async def decode(*given: Any) -> Any:
        return given

    async def work() -> Any:
        local = stages(encode=encode, decode=decode)
        prompts: Any = "prompts"
        options: Any = "options"
        return await local.decode(call("encode", local), prompts, options, 7.0)

    assert asyncio.run(work()) == (embedding, "prompts", "options", 7.0)


def test_cancelling_ends_the_work_and_one_who_stops_waiting_does_not() -> None:
    async def work() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def long(*_: Any) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        pending = call("detect", stages(detect=long))
        await begun.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pending.ready(), 0)
        assert not ended.is_set()
        pending.cancel()
        await ended.wait()
        with pytest.raises(asyncio.CancelledError):
            await pending

    asyncio.run(work())


def offer(**gpus: float) -> Catalogue:
    bundle = cast(Bundle, None)
    return Catalogue(
        {"d": OfferedDetector(bundle, DetectorSettings(num_gpus=gpus.get("detector", 0)))},
        {
            "s": OfferedSegmenter(
                bundle,
                ImageEncoderSettings(num_gpus=gpus.get("encoder", 0), graceful_shutdown_timeout_s=90),
                MaskDecoderSettings(num_gpus=gpus.get("decoder", 0)),
            )
        },
        (),
    )


def test_one_replica_sets_aside_what_all_stages_would() -> None:
    place = placement(IngressSettings(max_ongoing_requests=128), offer(detector=0.4, encoder=0.4, decoder=0.2))
    assert (place.num_cpus, place.num_gpus) == (0.7, 1.0)
    assert place.graceful_shutdown_timeout_s == 90
    assert place.max_ongoing_requests == 128


def test_one_replica_wants_the_nodes_of_all_its_parts() -> None:
    found = offer()
    segmenter = found.segmenters["s"]
    apart = replace(segmenter, image_encoder=segmenter.image_encoder.model_copy(update={"resources": {"a": 0.1}}))
    place = placement(IngressSettings(resources={"a": 0.2, "b": 1}), replace(found, segmenters={"s": apart}))
    assert place.resources == {"a": 0.3, "b": 1}


def test_a_part_of_several_gpus_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"fused: .* 1\.5 GPUs"):
        placement(IngressSettings(), offer(detector=1, encoder=0.5))
