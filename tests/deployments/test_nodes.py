"""Each stage on a node of its own: raylets that join the session's Ray, whose head keeps the ingress.

Then changed as `serve deploy` does it, while callers ask: one stage alone, and back, with the ingress.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.result import Result
from tests.deployments.bundles import bundle_copy
from tests.deployments.cluster_file import STAGES, File, deploy, replicas, settings_of, stand_ins
from tests.deployments.load import Told, asked_all_the_time
from tests.deployments.nodes import Node, head, more_nodes
from tests.deployments.serve_logs import eventually
from tests.deployments.test_serve import PROMPT, assert_same, encoded, scene

pytestmark = pytest.mark.slow

APP = "nodes"
EMBEDDING_BYTES = 4 * 128 * 48 * 48


def drawn(number: int) -> bytes:
    """A picture that goes inside the calls: below 64 KiB nothing of it is in an object store."""
    image = encoded(scene(400 + 8 * number, 300), "JPEG", quality=95)
    assert len(image) < 2**16
    return image


@dataclass(frozen=True, slots=True)
class Versions:
    """A detector's bundle folders, both called `shop`, and what each finds in `images`."""

    folders: Mapping[str, Path]
    images: tuple[bytes, ...]
    references: Mapping[str, tuple[Result, ...]]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    """The embedded one, and one that draws its boxes larger."""
    from safetensors.torch import load_file, save_file

    from pipeline.text_to_mask import TextToMask

    folders = {name: bundle_copy("detector", "shop", tmp_path_factory.mktemp(name)) for name in ("old", "new")}
    weights = folders["new"] / "model.safetensors"
    tensors = load_file(weights)
    tensors["transformer.decoder.bbox_embed.0.layers.2.bias"][2:] += 0.2
    save_file(tensors, weights)
    card = json.loads((folders["new"] / "bundle.json").read_text())
    card["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    (folders["new"] / "bundle.json").write_text(json.dumps(card))
    images = tuple(drawn(number) for number in range(6))
    references = {
        name: tuple(
            TextToMask.from_pretrained(detector=folder, segmenter="tiny").predict(image, PROMPT) for image in images
        )
        for name, folder in folders.items()
    }
    return Versions(folders, images, references)


def described(versions: Versions, version: str = "old", surge: int = 100, **settings: Any) -> File:
    """configs/cluster.yaml with each stage pinned to a node, and two replicas of the ingress on the head."""
    file = stand_ins(APP)
    given = settings_of(file)
    del given["model"]
    given["detectors"] = [{"model": str(versions.folders[version])}]
    given["id_secret"] = "of every version, the same"
    for stage in STAGES:
        given[stage]["resources"] = {stage: 0.01}
    given["detector"]["max_surge_percent"] = surge
    given["ingress"] |= {"num_replicas": 2, "resources": {"node:__internal_head__": 0.001}}
    given |= settings
    del file["applications"][0]["deployments"]
    return file


@pytest.fixture(scope="module")
def nodes(ray_address: str, versions: Versions, service: str) -> Iterator[Mapping[str, Node]]:
    from ray import serve

    with more_nodes(ray_address, *STAGES) as nodes:
        try:
            deploy(described(versions))
            with httpx.Client(base_url=f"{service}/{APP}", trust_env=False, timeout=120) as client:
                eventually(lambda: client.get("/readyz").status_code == 200, 120)
            eventually(settled(lambda: True))
            yield {**nodes, "ingress": head()}
        finally:
            serve.delete(APP)


@pytest.fixture
def url(service: str, nodes: Mapping[str, Node]) -> str:
    return f"{service}/{APP}"


def settled(condition: Callable[[], bool]) -> Callable[[], bool]:
    """Whether Serve has brought about what it was told, and `condition` holds."""
    from ray import serve

    return lambda: serve.status().applications[APP].status == "RUNNING" and condition()


def is_away(deployment: str) -> bool:
    """Whether no replica takes requests. While an application is built anew Serve tells nothing of it."""
    from ray import serve

    status = serve.status().applications[APP].deployments.get(deployment)
    return status is not None and not any(state == "RUNNING" for state, count in status.replica_states.items() if count)


def of(names: set[str], deployment: str) -> set[str]:
    return {name for name in names if name.startswith(f"{deployment}#")}


def test_each_stage_is_on_its_node_and_answers_as_in_process(
    url: str, nodes: Mapping[str, Node], versions: Versions, in_process: Any
) -> None:
    where = placed()
    assert where == {
        "detector-shop": {nodes["detector"].id},
        "image-encoder-tiny": {nodes["image_encoder"].id},
        "mask-decoder-tiny": {nodes["mask_decoder"].id},
        "ingress": {nodes["ingress"].id},
    }
    for image in versions.images[:2]:
        reference = replace(in_process.predict(image, PROMPT), model="shop+tiny")
        assert len(reference) > 0
        assert_same(ask(url, image), reference)


def test_embeddings_go_from_the_encoders_node_to_the_decoders_and_nowhere_else(
    url: str, nodes: Mapping[str, Node]
) -> None:
    """By the account of each node's object store: what was made there or fetched, since the start."""
    images = [drawn(number) for number in range(100, 104)]
    before = {name: node.stored() for name, node in nodes.items()}
    for image in images:
        assert len(ask(url, image)) > 0
    new = {name: subtract(node.stored(), before[name]) for name, node in nodes.items()}
    assert new["ingress"] == new["detector"] == (0, 0)
    for name in ("image_encoder", "mask_decoder"):
        count, size = new[name]
        assert count == len(images)
        assert 0 <= size - count * EMBEDDING_BYTES < count * 4096, "an embedding and a little about it"


@pytest.mark.nightly
def test_a_change_replaces_what_it_is_about_under_load_without_a_failure(
    url: str, nodes: Mapping[str, Node], versions: Versions
) -> None:
    """Another detector; then the first again, and at the same time another ingress."""
    before = replicas(APP)
    with asked_all_the_time(url, versions.images, PROMPT, versions.references) as told:
        eventually(lambda: told.versions["old"] > 6)
        deploy(described(versions, "new"))
        assert changed_to("new", told) == 0, "with max_surge_percent the old replica serves until the new one does"
        between = replicas(APP)
        assert before - between == of(before, "detector-shop")

        deploy(described(versions, "old", surge=0, detect_first=True))
        assert changed_to("old", told) > 0, "the only replica is away for a while, and requests wait"
        after = replicas(APP)
        assert between - after == of(between, "detector-shop") | of(between, "ingress")
    print(told)
    assert set(told.bare) == set(told.ours) == {200}
    assert told.stats is not None
    assert told.stats.retries == 0
    assert None not in told.versions, "each answer is one version's, whole"


def changed_to(version: str, told: Told) -> int:
    """Wait for its answers, and for Serve to be done; how often no detector was there meanwhile."""
    seen, gaps = told.versions[version], 0

    def done() -> bool:
        nonlocal gaps
        gaps += is_away("detector-shop")
        return told.versions[version] > seen + 3

    eventually(done, 90)
    whole = {"detector-shop": 1, "image-encoder-tiny": 1, "mask-decoder-tiny": 1, "ingress": 2}
    eventually(settled(lambda: Counter(name.split("#")[0] for name in replicas(APP)) == whole), 90)
    return gaps


def ask(url: str, image: bytes) -> Result:
    files = {"image": image}
    answer = httpx.post(f"{url}/v1/segment", files=files, data={"prompt": PROMPT}, trust_env=False, timeout=60)
    assert answer.status_code == 200, answer.text
    return Result.from_json(answer.json())


def placed() -> dict[str, set[str]]:
    """The nodes of each deployment's replicas."""
    ray: Any = importlib.import_module("ray")
    where: dict[str, set[str]] = {}
    for name in replicas(APP):
        actor = ray.get_actor(f"SERVE_REPLICA::{APP}#{name}", namespace="serve")
        node = ray.get(actor.__ray_call__.remote(lambda actor: ray.get_runtime_context().get_node_id()))
        where.setdefault(name.split("#")[0], set()).add(node)
    return where


def subtract(now: tuple[int, int], before: tuple[int, int]) -> tuple[int, int]:
    return now[0] - before[0], now[1] - before[1]
