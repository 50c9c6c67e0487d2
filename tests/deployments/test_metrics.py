"""What is counted, and that it reaches Prometheus: with sinks in memory, and from the live service."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from deployments import metrics
from deployments.admission_settings import AdmissionSettings
from deployments.auth_settings import AuthSettings
from deployments.batcher import Batcher
from deployments.fetch import Fetcher, FetchError
from deployments.keys import issue
from deployments.metrics import METRICS, Metric
from deployments.retry import StageLostError
from deployments.stage_meter import StageMeter
from deployments.stage_settings import ImageEncoderSettings, StageSettings
from pipeline.errors import StageError
from tests.deployments.fakes import FakeStages, picture
from tests.deployments.serve_logs import eventually
from tests.deployments.service import PICTURE, Service

ROOT = Path(__file__).parents[2]


class Memory:
    """A sink: values by metric's name and labels."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], list[float]] = {}

    def record(self, metric: Metric, value: float, labels: dict[str, str]) -> None:
        assert set(labels) == set(metric.labels), metric.name
        assert metric.kind != "counter" or value > 0
        key = (metric.name.removeprefix("text2mask_"), *(labels[label] for label in metric.labels))
        self.values.setdefault(key, []).append(value)


@pytest.fixture
def memory() -> Iterator[Memory]:
    sink = Memory()
    before = metrics.send_to(sink)
    yield sink
    metrics.send_to(before)


def test_names_are_told_apart_and_labels_have_few_values() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"text2mask_[a-z_]+(?<!_total)", metric.name)
        assert set(metric.labels) <= {"route", "code", "reason", "outcome", "stage", "model", "kind", "step"}
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert all(edge > 0 for edge in metric.buckets)


def test_the_page_has_the_table() -> None:
    assert metrics.table() in (ROOT / "docs" / "observe.md").read_text(encoding="utf-8"), (
        "put what `python -m deployments.metrics` prints into docs/observe.md"
    )


def test_a_request_is_counted_once(memory: Memory) -> None:
    Service().json()
    [size] = memory.values.pop(("body_bytes", "/v1/segment"))
    assert size > 100
    assert memory.values == {("image_pixels", "/v1/segment"): [600], ("detections", "/v1/segment"): [2]}


def test_refusals_by_code_and_limit(memory: Memory) -> None:
    key, entry = issue("alice")
    asked = Service(auth=AuthSettings(keys=(entry,), requests_per_minute=6), admission=AdmissionSettings())
    for given in ("wrong", key, key):
        asked.request("GET", "/v1/models", headers={"authorization": f"Bearer {given}"})
    Service().json(prompt="")
    Service().request("GET", "/etc/passwd")
    full = AdmissionSettings().model_copy(update={"max_requests": 0})
    Service(admission=full).json()
    Service(admission=AdmissionSettings().model_copy(update={"max_body_bytes": 10})).json()
    counted = {key: sum(values) for key, values in memory.values.items() if key[0] in ("errors", "rejections")}
    assert counted == {
        ("errors", "/v1/models", "unauthenticated"): 1,
        ("errors", "/v1/models", "rate_limited"): 1,
        ("errors", "/v1/segment", "invalid_value"): 1,
        ("errors", "other", "not_found"): 1,
        ("errors", "/v1/segment", "overloaded"): 2,
        ("rejections", "rate_limit"): 1,
        ("rejections", "requests"): 1,
        ("rejections", "bytes"): 1,
    }


def test_repeated_calls_by_stage(memory: Memory) -> None:
    lost = {
        "detect": [StageLostError(), StageLostError()],
        "decode": [StageLostError(), StageLostError(input_lost=True)],
    }
    assert Service(FakeStages(lost)).json().status_code == 200
    counted = {key[1]: len(values) for key, values in memory.values.items() if key[0] == "retries"}
    assert counted == {"detector": 2, "mask_decoder": 1, "image_encoder": 1}


def test_images_by_url_by_outcome(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [PICTURE, FetchError("url_not_fetched", "no")]

    async def fetch(*_: Any) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, FetchError):
            raise answer
        return bytes(answer)

    monkeypatch.setattr(Fetcher, "fetch", fetch)
    for _ in range(2):
        Service().json(image={"type": "url", "value": "https://a.example/x.png"})
    counted = {key[1]: len(values) for key, values in memory.values.items() if key[0] == "url_fetches"}
    assert counted == {"ok": 1, "url_not_fetched": 1}


def test_batches_their_fill_and_what_waited(memory: Memory) -> None:
    settings = StageSettings(max_batch_size=4, max_batch_cost=10)
    slow = 0.05

    def forward(items: Sequence[int]) -> list[int]:
        time.sleep(slow)  # the model's work
        return list(items)

    async def test() -> None:
        meter = StageMeter("detector", "tiny", settings)
        batcher: Batcher[int, int] = Batcher(forward, max_batch_size=4, max_batch_cost=10, meter=meter)
        first = asyncio.ensure_future(batcher.submit(0, cost=1))
        await asyncio.sleep(0.01)
        late = [asyncio.ensure_future(batcher.submit(1, cost=1, deadline=time.time()))]
        gone = asyncio.ensure_future(batcher.submit(2, cost=1))
        more = [asyncio.ensure_future(batcher.submit(number, cost=4)) for number in range(3, 6)]
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(first, *more)
        assert isinstance((await asyncio.gather(*late, return_exceptions=True))[0], StageError)
        await batcher.close()

    asyncio.run(test())
    of = ("detector", "tiny")
    assert memory.values["batch_items", *of] == [1, 2, 1]
    assert memory.values["batch_fill", *of] == [0.25, 0.8, 0.4]
    assert (sum(memory.values["items", *of]), sum(memory.values["cost", *of])) == (4, 13)
    assert [len(memory.values["dropped", *of, why]) for why in ("deadline", "cancelled")] == [1, 1]
    waits, passes = memory.values["queue_seconds", *of], memory.values["stage_seconds", *of, "forward"]
    assert all(one >= slow for one in passes)
    assert waits[0] < slow / 2
    assert waits[3] > slow
    assert len(waits) == 4


def test_the_cache_by_kind_and_outcome(memory: Memory) -> None:
    pytest.importorskip("torch")
    from deployments.image_encoder import ImageEncoderDeployment
    from pipeline.bundle import resolve

    encoder = ImageEncoderDeployment(resolve("tiny", "segmenter"), ImageEncoderSettings(threads=1))
    image = picture((40, 50))

    async def test() -> None:
        await asyncio.gather(encoder.encode(image, "a"), encoder.encode(image, "a"))
        await encoder.encode(image, "a")
        await encoder.recall("a")
        assert isinstance(await encoder.recall("b"), StageError)

    asyncio.run(test())
    counted = Counter({key[1:]: len(values) for key, values in memory.values.items() if key[0] == "cache_lookups"})
    kinds = ("embedding", "tiny")
    assert counted == {
        (*kinds, "miss"): 1,
        (*kinds, "joined"): 1,
        (*kinds, "hit"): 1,
        ("image", "tiny", "hit"): 1,
        ("image", "tiny", "miss"): 1,
    }
    assert memory.values["cache_bytes", "tiny"] == [encoder._cache.size]
    steps = {key[3] for key in memory.values if key[0] == "stage_seconds"}
    assert steps == {"prepare", "forward", "finish"}


def queries() -> dict[str, str]:
    """PromQL of the dashboard and of the alerts, by where it stands."""
    from tests.configs.observing import alerts, panels

    return {**panels(), **alerts()}


def used(query: str) -> set[str]:
    return set(re.findall(r"\b(?:ray|up)_?[a-z0-9_]*\b", re.sub(r"\{[^}]*\}|by \([^)]*\)|on \([^)]*\)", "", query)))


@pytest.mark.slow
def test_every_name_is_in_the_live_metrics(client: httpx.Client, service: str, metrics_port: int) -> None:
    """After an answer, an error and a rejection. What this does not bring about is recorded by this process."""
    from deployments.ray_metrics import RaySink

    image = picture((52, 62))
    assert client.post("/v1/segment", files={"image": image}, data={"prompt": "car"}).status_code == 200
    assert client.post("/v1/segment", files={"image": image}, data={"prompt": ""}).status_code == 422
    refused_of_many(service)
    sink = RaySink()
    for metric in METRICS:
        sink.record(metric, 1, dict.fromkeys(metric.labels, "of-the-test"))
    wanted = {name for query in queries().values() for name in used(query)} - {"up"}
    assert len(wanted) > 20
    rejected = re.compile(r'^ray_text2mask_rejections_total\{.*deployment="ingress".*reason="requests"', re.MULTILINE)

    there: set[str] = set()  # at one look or another: Serve's controller tells its gauges every ten seconds

    def missing() -> set[str]:
        text = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics", trust_env=False).text
        there.update(re.findall(r"^(\w+)\{", text, re.MULTILINE))
        gone = wanted - there - ONLY_WITH_GPUS
        gone |= {one.exported for one in METRICS} - {re.sub("_(bucket|count|sum)$", "", name) for name in there} - there
        return gone if gone or rejected.search(text) else {"no rejection"}

    try:
        eventually(lambda: not missing(), within_s=40)
    except AssertionError:
        assert missing() == set()
        raise


ONLY_WITH_GPUS = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_gram_available"}


def refused_of_many(service: str) -> None:
    """Fill the places of admission with requests whose bodies do not come, until one is refused."""
    address = urlsplit(service)
    head = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    places = AdmissionSettings().max_requests
    open_ = [socket.create_connection((str(address.hostname), address.port or 80), 30) for _ in range(places + 1)]
    try:
        for connection in open_:
            connection.sendall(head)
        while True:  # whichever of them came last
            for connection in open_:
                connection.settimeout(0.02)
                try:
                    answer = connection.recv(100)
                except TimeoutError:
                    continue
                assert answer.startswith(b"HTTP/1.1 429")
                return
    finally:
        for connection in open_:
            connection.close()
