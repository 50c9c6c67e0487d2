"""configs/cluster.yaml on a real Serve, with CPUs for GPUs and the embedded model; then changed in place, and scaled.

An application of its own beside the session's service, deployed as `serve deploy` does it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from pipeline.result import Result
from tests.deployments.cluster_file import ROOT, File, deploy, replicas, settings_of, stand_ins, told
from tests.deployments.fakes import picture
from tests.deployments.serve_logs import eventually, lines
from tests.deployments.test_serve import assert_same

pytestmark = pytest.mark.slow

PICTURE = (ROOT / "pipeline" / "tiny" / "demo.png").read_bytes()
SMALL = picture()
PROMPT = "red circle, star"


def changed() -> File:
    """configs/cluster.yaml here, with one limit from each place that can say it."""
    file = stand_ins("cluster")
    settings_of(file)["limits"] = {"max_body_s": 28}
    settings_of(file)["id_secret"] = "of every file, the same"  # drawn anew, it would replace the ingress
    file["applications"][0]["runtime_env"] = {"env_vars": {"TEXT2MASK_LIMITS__MAX_BODY_S": "29"}}
    return file


@pytest.fixture(scope="module")
def cluster(service: str) -> Iterator[httpx.Client]:
    from ray import serve

    deploy(changed())
    with httpx.Client(base_url=f"{service}/cluster", trust_env=False, timeout=120) as client:
        eventually(lambda: client.get("/readyz").status_code == 200, 120)
        yield client
    serve.delete("cluster")


def segment(client: httpx.Client, image: bytes = PICTURE, **fields: str) -> httpx.Response:
    return client.post("/v1/segment", files={"image": image}, data={"prompt": PROMPT, **fields})


def card(client: httpx.Client) -> Any:
    return client.get("/v1/models").json()["models"][0]


def test_the_clusters_file_starts_and_answers(cluster: httpx.Client, in_process: Any) -> None:
    answer = segment(cluster)
    assert answer.status_code == 200, answer.text
    assert_same(Result.from_json(answer.json()), in_process.predict(PICTURE, PROMPT))
    assert card(cluster)["limits"] == {  # as the environment, the default and the file's `user_config` say
        "max_body_s": 29,
        "max_image_bytes": 32 * 2**20,
        "max_image_pixels": 50_000_000,
        "max_timeout_s": 60,
    }
    assert {name.split("#")[0] for name in replicas("cluster")} == {
        "detector-tiny",
        "image-encoder-tiny",
        "mask-decoder-tiny",
        "ingress",
    }


def most_pixels(client: httpx.Client) -> tuple[int, int]:
    """As both places publish it."""
    published = client.get("/openapi.json").json()["x-limits"]["image_pixels"]["maximum"]
    return card(client)["limits"]["max_image_pixels"], published


def test_numbers_change_in_running_replicas_and_no_request_fails(cluster: httpx.Client) -> None:
    before, found = replicas("cluster"), len(segment(cluster).json()["detections"])
    assert found >= 2
    first = most_pixels(cluster)
    done, statuses = threading.Event(), []

    def ask() -> None:
        while not done.is_set():
            statuses.append(segment(cluster, SMALL).status_code)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            ingress = {"limits": {"max_image_pixels": 10_000}, "defaults": {"box_threshold": 0.97}}
            deploy(told(changed(), ingress=ingress, detector_tiny={"max_batch_cost": 1}))
            eventually(lambda: most_pixels(cluster) == (10_000, 10_000))
            eventually(lambda: lines("replica_cluster_detector", "In force now"))
            refused = segment(cluster)
            assert (refused.status_code, refused.json()["error"]["code"]) == (413, "image_too_large")

            deploy(told(changed(), ingress={"defaults": {"box_threshold": 0.97}}))
            eventually(lambda: most_pixels(cluster) == first)  # what is not told any more is as at the start
            assert card(cluster)["detector"]["box_threshold"] == 0.97
            assert segment(cluster).json()["detections"] == []
            assert len(segment(cluster, box_threshold="0.3").json()["detections"]) == found
        finally:
            done.set()
            asking.result()
    assert set(statuses) == {200}
    assert replicas("cluster") == before


def test_what_is_told_wrong_leaves_what_is_in_force(cluster: httpx.Client) -> None:
    before, first = replicas("cluster"), most_pixels(cluster)
    deploy(told(changed(), ingress={"limits": {"max_image_pixels": 20_000}}))
    eventually(lambda: most_pixels(cluster) == (20_000, 20_000))
    deploy(told(changed(), ingress={"limits": {"max_image_pixel": 5}, "defaults": {"box_threshold": 0.9}}))
    eventually(lambda: lines("replica_cluster_ingress", "max_image_pixel: there is no such setting; did you mean"))
    assert most_pixels(cluster) == (20_000, 20_000)
    assert segment(cluster, SMALL).status_code == 200
    assert replicas("cluster") == before
    deploy(told(changed()))  # of nobody: as at the start
    eventually(lambda: most_pixels(cluster) == first)
    assert replicas("cluster") == before


def test_the_stage_whose_work_waits_gets_a_replica_and_the_others_none(cluster: httpx.Client) -> None:
    """Many classes on an image that is cached: work for the detector. Another scale takes no replica away."""
    before = replicas("cluster")
    file = changed()
    scale = {"target_queue_s": 0.2, "upscale_delay_s": 1, "max_replicas": 2}
    settings_of(file)["detector"]["autoscaling"] |= scale
    deploy(file)
    colours, shapes = ("red", "orange", "yellow", "green", "blue"), ("circle", "star", "ring", "cross", "hexagon")
    classes = ", ".join(f"{colour} {shape}" for colour in colours for shape in shapes)
    done, statuses = threading.Event(), []

    def ask() -> None:
        while not done.is_set():
            statuses.append(segment(cluster, prompt=classes).status_code)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            eventually(lambda: len(replicas("cluster")) > len(before), 60)
        finally:
            done.set()
            for one in asking:
                one.result()
    assert set(statuses) == {200}
    now = replicas("cluster")
    assert before < now
    assert {name.split("#")[0] for name in now - before} == {"detector-tiny"}
