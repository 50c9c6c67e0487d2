"""The Serve files that come along: right for Ray's own schema, for our settings, and what they say of themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployments import config_file
from deployments.settings import Settings, from_args

yaml = pytest.importorskip("yaml")
schema = pytest.importorskip("ray.serve.schema")

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))


def settings_of(name: str) -> Settings:
    return from_args(config_file.read(CONFIGS / name).args)


def test_there_is_one_for_each_size() -> None:
    assert [path.name for path in FILES] == ["cluster.yaml", "local.yaml", "one-gpu.yaml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_serve_takes_it(path: Path) -> None:
    parsed = schema.ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    assert [app.import_path for app in parsed.applications] == ["deployments.app:build_app"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_changes_in_place_is_right_and_says_what_the_settings_say(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of deployments too. The weights are those of the embedded model, under the file's names."""
    from deployments import app, catalogue, keys
    from pipeline.bundle import resolve

    def by_name(name: str, kind: Any) -> Any:
        from dataclasses import replace

        return replace(resolve("tiny", kind), name=name)

    monkeypatch.setattr(catalogue, "resolve", by_name)
    monkeypatch.setattr(keys, "gather", lambda auth: auth)
    file = config_file.read(path)
    app.build(file.args, file.in_place)


def test_the_cluster_scales_three_stages_apart() -> None:
    cluster = settings_of("cluster.yaml")
    stages = (cluster.detector, cluster.image_encoder, cluster.mask_decoder)
    scales = [stage.autoscaling for stage in stages]
    assert not cluster.fused
    assert cluster.auth.mode == "keys"
    assert all(scale is not None and scale.min_replicas < scale.max_replicas for scale in scales)
    assert len({stage.num_gpus for stage in stages}) == 3
    assert len({scale.target_queue_s for scale in scales if scale is not None}) == 3
    admitted = cluster.ingress.num_replicas * cluster.admission.max_requests
    most = scales[1].max_replicas if scales[1] is not None else 0
    assert admitted == 2 * cluster.image_encoder.max_batch_size * most  # as its comment says


def test_one_gpu_is_one_process_on_one_card() -> None:
    one = settings_of("one-gpu.yaml")
    stages = (one.detector, one.image_encoder, one.mask_decoder)
    assert one.fused
    assert {(stage.device, stage.precision) for stage in stages} == {("cuda", "bfloat16")}
    assert sum(stage.num_gpus for stage in stages) == pytest.approx(1)


def test_local_stays_on_this_machine_and_fits_two_cpus() -> None:
    file = config_file.read(CONFIGS / "local.yaml")
    local = from_args(file.args)
    assert local.model == "tiny"
    assert file.http_options == {"host": "127.0.0.1", "port": 8000}
    stages = (local.detector, local.image_encoder, local.mask_decoder, local.ingress)
    # With room for a second copy while one is replaced.
    assert sum(stage.num_cpus * stage.num_replicas for stage in stages) <= 1
