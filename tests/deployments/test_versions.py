"""Which deployments Serve would replace for a changed file: their versions, as they reach its controller."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from deployments.admission_settings import Limits
from deployments.app import build_app
from deployments.auth_settings import AuthSettings
from deployments.versions import version_of
from pipeline.models.weights import sha256_of
from tests.deployments.bundles import bundle_copy

START: dict[str, Any] = {"auth": {"mode": "none"}, "id_secret": "of one length, at least"}
ALL = {"detector-tiny", "image-encoder-tiny", "mask-decoder-tiny", "ingress"}


def versions(**settings: Any) -> dict[str, str]:
    """By deployment. Serve's own is set beside it, as where a file is deployed."""
    from ray.serve._private.build_app import build_app as built
    from ray.serve._private.config import DeploymentConfig

    found = {}
    app = build_app({"settings": {**START, **settings}})
    for deployment in built(app, name="text2mask").deployments:
        config = deployment._deployment_config
        config.version = "of the whole application"
        found[deployment.name] = str(DeploymentConfig.from_proto_bytes(config.to_proto_bytes()).version)
    return found


@pytest.fixture(scope="module")
def first() -> dict[str, str]:
    return versions()


@pytest.mark.parametrize(
    ("changed", "replaced"),
    [
        ({}, set()),
        ({"detector": {"max_batch_size": 4}}, {"detector-tiny"}),
        ({"image_encoder": {"cache_bytes": 0}}, {"image-encoder-tiny"}),
        ({"mask_decoder": {"precision": "bfloat16"}}, {"mask-decoder-tiny"}),
        ({"limits": {"max_timeout_s": 30}}, {"ingress"}),
        ({"id_secret": "another one, as long"}, {"ingress"}),
        ({"id_secret": None}, {"ingress"}),  # drawn anew
        ({"detector": {"num_replicas": 2, "num_cpus": 1}}, set()),
        ({"limits": {"max_timeout_s": Limits().max_timeout_s}}, set()),  # what holds anyway
        ({"ingress": {"num_replicas": 2}}, set()),
        ({"aliases": {"best": "tiny+tiny"}}, {"ingress"}),
        ({"fused": True}, {"ingress"}),
    ],
)
def test_what_a_setting_replaces(first: dict[str, str], changed: dict[str, Any], replaced: set[str]) -> None:
    now = versions(**changed)
    assert {name for name in now if now[name] != first[name]} == replaced
    assert set(now) == ({"ingress"} if "fused" in changed else ALL)


def test_a_stage_is_replaced_where_it_begins_or_ceases_to_scale_by_load(first: dict[str, str]) -> None:
    """Serve's replicas begin to tell of their load when they start, or never. Another scale is the controller's."""
    scaled = [versions(detector={"autoscaling": told}) for told in ({}, {"max_replicas": 3, "target_queue_s": 2})]
    assert scaled[0] == scaled[1]
    assert {name for name in first if first[name] != scaled[0][name]} == {"detector-tiny"}
    assert versions(detector={}) == first, "and back"


def test_other_weights_replace_their_own_stage(tmp_path: Path) -> None:
    """And the same in another folder: who starts later has to know where they are."""
    first, moved = (bundle_copy("detector", "shop", tmp_path / name) for name in ("1", "2"))
    seen = [versions(detectors=[{"model": str(folder)}]) for folder in (first, moved)]
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"?")
    content = json.loads((moved / "bundle.json").read_text()) | {"sha256": sha256_of(weights)}
    (moved / "bundle.json").write_text(json.dumps(content))
    seen.append(versions(detectors=[{"model": str(moved)}]))
    for before, now in pairwise(seen):
        assert {name for name in now if now[name] != before[name]} == {"detector-shop"}


def test_a_model_more_replaces_the_ingress_alone(first: dict[str, str], tmp_path: Path) -> None:
    other = bundle_copy("segmenter", "other", tmp_path)
    now = versions(segmenters=[{"model": "tiny"}, {"model": str(other)}])
    assert set(now) - ALL == {"image-encoder-other", "mask-decoder-other"}
    assert {name for name in ALL if now[name] != first[name]} == {"ingress"}


def test_a_limit_that_is_taken_away_is_another_version() -> None:
    entry = {"owner": "alice", "sha256": "a" * 64}
    one = AuthSettings.model_validate({"keys": [entry], "requests_per_minute": 5})
    other = AuthSettings.model_validate({"keys": [{**entry, "requests_per_minute": None}], "requests_per_minute": 5})
    assert version_of(AuthSettings, (one,)) != version_of(AuthSettings, (other,))


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        version_of(object, (object(),))
