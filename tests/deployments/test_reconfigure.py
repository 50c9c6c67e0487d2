"""configs/cluster.yaml on a real Serve, with CPUs for GPUs and the embedded model; then changed in place, under load.

An application of its own beside the session's service, deployed as `serve deploy` does it.
"""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.result import Result
from tests.deployments.fakes import picture
from tests.deployments.serve_logs import eventually, lines
from tests.deployments.test_serve import assert_same

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PICTURE = (ROOT / "pipeline" / "tiny" / "demo.png").read_bytes()
SMALL = picture()
STAGES = ("detector", "image_encoder", "mask_decoder")
File = dict[str, Any]


def stand_ins() -> File:
    """The file, with what this machine does not have exchanged: nothing else is."""
    import yaml

    text = (ROOT / "configs" / "cluster.yaml").read_text().replace("swint+vit_h", "tiny")
    file: File = yaml.safe_load(re.sub(r"-(swint|vit_h)\b", "-tiny", text))
    [app] = file["applications"]
    app["name"], app["route_prefix"] = "cluster", "/cluster"
    settings = app["args"]["settings"]
    for stage in STAGES:
        settings[stage] |= {"device": "cpu", "precision": "float32", "num_gpus": 0, "num_cpus": 0.05, "threads": 1}
        settings[stage]["autoscaling"]["min_replicas"] = 1
    settings["image_encoder"]["cache_bytes"] = 2**26
    settings["ingress"] |= {"num_cpus": 0.05, "num_replicas": 1}
    settings["auth"] = {"mode": "none"}
    settings["limits"] = {"max_body_s": 28}
    app["runtime_env"] = {"env_vars": {"TEXT2MASK_LIMITS__MAX_BODY_S": "29"}}
    return file


def told(file: File, **user_configs: Mapping[str, Any]) -> File:
    """`file` with these `user_config`s and no other; the names with `_` for `-`."""
    changed = copy.deepcopy(file)
    changed["applications"][0]["deployments"] = [
        {"name": name.replace("_", "-"), "user_config": user_config} for name, user_config in user_configs.items()
    ]
    return changed


def deploy(file: File) -> None:
    """What `serve deploy` asks of the controller; that of a test has no dashboard to go through."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    client: Any = _get_global_client()
    client.deploy_apps(ServeDeploySchema.model_validate(file))


def replicas() -> set[str]:
    """Names of the running actors; a replica that is replaced has another one."""
    import ray.util

    names = (actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True))
    return {name for name in names if name.startswith("SERVE_REPLICA::cluster#")}


@pytest.fixture(scope="module")
def cluster(service: str) -> Iterator[httpx.Client]:
    from ray import serve

    deploy(stand_ins())
    with httpx.Client(base_url=f"{service}/cluster", trust_env=False, timeout=120) as client:
        eventually(lambda: client.get("/readyz").status_code == 200, 120)
        yield client
    serve.delete("cluster")


def segment(client: httpx.Client, image: bytes = PICTURE, **fields: str) -> httpx.Response:
    return client.post("/v1/segment", files={"image": image}, data={"prompt": "red circle, star", **fields})


def card(client: httpx.Client) -> Any:
    return client.get("/v1/models").json()["models"][0]


def test_the_clusters_file_starts_and_answers(cluster: httpx.Client, in_process: Any) -> None:
    answer = segment(cluster)
    assert answer.status_code == 200, answer.text
    assert_same(Result.from_json(answer.json()), in_process.predict(PICTURE, "red circle, star"))
    assert card(cluster)["limits"] == {  # as the environment, the default and the file's `user_config` say
        "max_body_s": 29,
        "max_image_bytes": 32 * 2**20,
        "max_image_pixels": 50_000_000,
        "max_timeout_s": 60,
    }
    assert {name.split("#")[1] for name in replicas()} == {
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
    before, found = replicas(), len(segment(cluster).json()["detections"])
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
            deploy(told(stand_ins(), ingress=ingress, detector_tiny={"max_batch_cost": 1}))
            eventually(lambda: most_pixels(cluster) == (10_000, 10_000))
            eventually(lambda: lines("replica_cluster_detector", "In force now"))
            refused = segment(cluster)
            assert (refused.status_code, refused.json()["error"]["code"]) == (413, "image_too_large")

            deploy(told(stand_ins(), ingress={"defaults": {"box_threshold": 0.97}}))
            eventually(lambda: most_pixels(cluster) == first)  # what is not told any more is as at the start
            assert card(cluster)["detector"]["box_threshold"] == 0.97
            assert segment(cluster).json()["detections"] == []
            assert len(segment(cluster, box_threshold="0.3").json()["detections"]) == found
        finally:
            done.set()
            asking.result()
    assert set(statuses) == {200}
    assert replicas() == before


def test_what_is_told_wrong_leaves_what_is_in_force(cluster: httpx.Client) -> None:
    before, first = replicas(), most_pixels(cluster)
    deploy(told(stand_ins(), ingress={"limits": {"max_image_pixels": 20_000}}))
    eventually(lambda: most_pixels(cluster) == (20_000, 20_000))
    deploy(told(stand_ins(), ingress={"limits": {"max_image_pixel": 5}, "defaults": {"box_threshold": 0.9}}))
    eventually(lambda: lines("replica_cluster_ingress", "max_image_pixel: there is no such setting; did you mean"))
    assert most_pixels(cluster) == (20_000, 20_000)
    assert segment(cluster, SMALL).status_code == 200
    assert replicas() == before
    deploy(told(stand_ins()))  # of nobody: as at the start
    eventually(lambda: most_pixels(cluster) == first)
    assert replicas() == before
