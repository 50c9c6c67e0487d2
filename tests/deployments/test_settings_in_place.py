"""What `user_config` changes: what is refused, what follows in the batches and in the answers. Without Serve."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from deployments import metrics
from deployments.admission_settings import AdmissionSettings, Defaults, Limits
from deployments.batcher import Batcher
from deployments.in_place import Changes, Requests, of_stage
from deployments.metrics import Metric
from deployments.settings import SettingsError, from_args
from deployments.stage_settings import DetectorSettings
from tests.deployments.bundles import bundle_copy
from tests.deployments.fakes import base64

PICTURE = (Path(__file__).parents[2] / "pipeline" / "tiny" / "demo.png").read_bytes()
REQUESTS = Requests(limits=Limits(), admission=AdmissionSettings(), defaults=Defaults(), max_ongoing_requests=256)


@pytest.mark.parametrize(
    ("told", "text"),
    [
        (5, "user_config: must be a mapping"),
        ({"max_batchsize": 1}, "user_config.max_batchsize: there is no such setting; did you mean max_batch_size?"),
        ({"precision": "bfloat16"}, "user_config.precision: only a restart changes this"),
        ({"max_batch_size": 0}, "user_config.max_batch_size: "),
        ({"max_batch_size": 33}, "at least 2 x max_batch_size"),
    ],
)
def test_a_stage_refuses(told: Any, text: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        of_stage(DetectorSettings(), told)
    assert text in str(refusal.value)


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ([], "user_config: must be a mapping"),
        ({"limit": {}}, "user_config.limit: there is no such setting; did you mean limits?"),
        ({"limits": {"max_image_pixel": 1}}, "user_config.limits.max_image_pixel: "),
        ({"limits": {"max_image_bytes": 2**30}}, "user_config.limits.max_image_bytes: "),
        ({"defaults": {"box_threshold": 1.5}}, "user_config.defaults.box_threshold: "),
        ({"admission": {"max_requests": 256}}, "must stay below ingress.max_ongoing_requests"),
        ({"detector": {}}, "user_config.detector: there is no such setting; did you mean"),
    ],
)
def test_the_ingress_refuses(told: Any, text: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        REQUESTS.changed(told)
    assert text in str(refusal.value).replace("known here", "did you mean")


def test_each_change_begins_at_the_settings_of_the_start() -> None:
    start = DetectorSettings(max_batch_size=4)
    assert of_stage(start, {"max_batch_cost": None}).max_batch_cost is None
    assert of_stage(start, {}) == start
    changed = REQUESTS.changed({"limits": {"max_timeout_s": 5}})
    assert changed.limits == Limits(max_timeout_s=5)
    assert (changed.admission, changed.defaults) == (REQUESTS.admission, REQUESTS.defaults)


def test_only_the_start_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    applied: list[Any] = []

    def apply(told: Any) -> None:
        of_stage(DetectorSettings(), told)
        applied.append(told)

    changes = Changes(apply)
    with pytest.raises(SettingsError):
        changes.take({"max_batch_size": 0})
    changes.take({"max_batch_size": 2})
    changes.take({"max_batch_size": 0})
    assert applied == [{"max_batch_size": 2}]
    assert "what was in force stays: user_config.max_batch_size" in caplog.text


@pytest.mark.parametrize(
    ("args", "in_place", "text"),
    [
        ({}, {"detecto-tiny": {}}, "deployments: there is no 'detecto-tiny'; did you mean detector-tiny?"),
        (
            {},
            {"mask-decoder-tiny": {"threads": 2}},
            "deployments: mask-decoder-tiny: user_config.threads: only a restart",
        ),
        ({}, {"ingress": {"detector": {}}}, "deployments: ingress: user_config.detector: there is no such setting"),
        (
            {"fused": True},
            {"ingress": {"detector": {"max_batch_size": 99}}},
            "user_config.detector: max_ongoing_requests",
        ),
        ({"fused": True}, {"detector-tiny": {}}, "deployments: there is no 'detector-tiny'"),
    ],
)
def test_a_file_is_refused_before_anything_starts(args: dict[str, Any], in_place: Any, text: str) -> None:
    pytest.importorskip("ray")
    from deployments.app import build

    with pytest.raises(SettingsError) as refusal:
        build({"auth.mode": "none", **args}, in_place)
    assert text in str(refusal.value)


def test_the_service_of_one_machine_starts_with_what_its_file_says() -> None:
    pytest.importorskip("ray")
    from deployments.app import build

    told = {"defaults": {"box_threshold": 0.5}}
    bound: Any = build({"auth.mode": "none", "fused": True}, {"ingress": told})
    assert bound._bound_deployment.user_config == told


@pytest.mark.parametrize(
    ("user_config", "options", "text"),
    [
        ("{max_batch_size: 2}", [], "Nothing is wrong"),
        ("{max_batch_sise: 2}", [], "did you mean max_batch_size?"),
        ("{}", ["--set", "detector.thread=2"], "did you mean threads?"),
        ("{}", ["--set", "detector.threads=2", "--fused"], "deployments: there is no 'detector-tiny'"),
        ("{}", ["--host", "0.0.0.0"], "others reach 0.0.0.0"),
    ],
)
def test_a_check_says_what_is_wrong(tmp_path: Path, user_config: str, options: list[str], text: str) -> None:
    pytest.importorskip("ray")
    from typer.testing import CliRunner

    from deployments.cli import app

    path = tmp_path / "serve.yaml"
    deployments = f"[{{name: detector-tiny, user_config: {user_config}}}]"
    path.write_text(f"applications: [{{import_path: deployments.app:build_app, deployments: {deployments}}}]")
    outcome = CliRunner().invoke(app, ["serve", "--config", str(path), "--check", *options])
    assert text in " ".join(outcome.stderr.split())
    assert outcome.exit_code == (0 if text.startswith("Nothing") else 1)
    assert not outcome.stdout


def test_a_check_reads_the_weights(tmp_path: Path) -> None:
    """Serve stops the old replicas first: the new ones must not be the first to look."""
    pytest.importorskip("ray")
    from typer.testing import CliRunner

    from deployments.cli import app

    copy = bundle_copy("detector", "spoilt", tmp_path)
    options = ["serve", "--set", f'detectors=[{{"model": "{copy}"}}]', "--check"]
    assert CliRunner().invoke(app, options).exit_code == 0
    with (copy / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"?")
    outcome = CliRunner().invoke(app, options)
    assert outcome.exit_code == 1
    assert "is not the file that 'spoilt' means" in " ".join(outcome.stderr.split())


def test_batches_follow_while_items_wait() -> None:
    """The batch that runs is not touched, and what waits for it goes by the new limits."""
    sizes: list[int] = []

    async def run() -> None:
        started, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def forward(batch: Sequence[int]) -> list[int]:
            sizes.append(len(batch))
            if len(sizes) == 1:
                loop.call_soon_threadsafe(started.set)
                asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)
            return list(batch)

        batcher: Batcher[int, int] = Batcher(forward, max_batch_size=4)
        first = asyncio.gather(*(batcher.submit(number) for number in range(4)))
        await started.wait()
        rest = asyncio.gather(*(batcher.submit(number) for number in range(4, 10)))
        await asyncio.sleep(0)  # so that they wait when the limit changes
        batcher.limit(2, None)
        go_on.set()
        assert [*await first, *await rest] == list(range(10))
        with pytest.raises(ValueError, match="at least 1"):
            batcher.limit(0, None)
        await batcher.close()

    asyncio.run(run())
    assert sizes == [4, 2, 2, 2]


class Passes:
    """A sink: forward passes by stage, and how full each was."""

    def __init__(self) -> None:
        self.fills: dict[str, list[float]] = {}

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        if metric is metrics.BATCH_FILL:
            self.fills.setdefault(labels["stage"], []).append(value)


@pytest.fixture
def passes() -> Iterator[Passes]:
    sink = Passes()
    before = metrics.send_to(sink)
    yield sink
    metrics.send_to(before)


def test_one_process_follows_as_a_whole(passes: Passes, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fused`, with the real stages: batches, limits, defaults, and what is published of them."""
    pytest.importorskip("ray")
    pytest.importorskip("torch")
    from ray import serve

    from deployments import app, ray_metrics
    from deployments.catalogue import catalogue
    from deployments.fused import FusedDeployment

    monkeypatch.setattr(ray_metrics, "install", lambda: None)
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(app_name="none"))
    settings = from_args({"auth.mode": "none"})
    offer = catalogue(settings)
    fused = FusedDeployment(offer.detectors, offer.segmenters, app.options_of(settings, offer))
    body = {"image": base64(PICTURE), "prompt": "red circle, star"}
    boxes = [[10.0 * number, 10.0, 10.0 * number + 50, 60.0] for number in range(4)]

    async def run() -> None:
        transport = httpx.ASGITransport(fused.__serve_build_asgi_app__())
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def decoded() -> list[float]:
                passes.fills.clear()
                answer = await client.post("/v1/masks", json={"image": base64(PICTURE), "boxes": boxes})
                assert answer.status_code == 200, answer.text
                return passes.fills["mask_decoder"]

            async def found() -> int:
                return len((await client.post("/v1/detect", json=body)).json()["detections"])

            await fused.reconfigure({})
            assert await decoded() == [4 / 32]
            first = await found()
            assert first >= 2
            await fused.reconfigure(
                {
                    "mask_decoder": {"max_batch_cost": 2},
                    "limits": {"max_timeout_s": 77},
                    "defaults": {"box_threshold": 1},
                }
            )
            assert await decoded() == [1, 1]
            assert await found() == 0
            [card] = (await client.get("/v1/models")).json()["models"]
            document = (await client.get("/openapi.json")).json()
            assert card["limits"]["max_timeout_s"] == document["x-limits"]["request_seconds"]["maximum"] == 77
            assert (card["detector"]["box_threshold"], card["detector"]["text_threshold"]) == (1, 0.25)

            # All or nothing.
            await fused.reconfigure({"mask_decoder": {"max_batch_cost": 1}, "limits": {"max_timeout_s": -1}})
            assert await decoded() == [1, 1]
            await fused.reconfigure({})
            assert await decoded() == [4 / 32]
            assert await found() == first

    asyncio.run(run())
