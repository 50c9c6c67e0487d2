"""configs/cluster.yaml for this machine, and what `serve deploy` does with it."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STAGES = ("detector", "image_encoder", "mask_decoder")
File = dict[str, Any]


def stand_ins(name: str) -> File:
    """The file, with what this machine does not have exchanged, and its application at `/name`."""
    import yaml

    text = (ROOT / "configs" / "cluster.yaml").read_text().replace("swint+vit_h", "tiny")
    file: File = yaml.safe_load(re.sub(r"-(swint|vit_h)\b", "-tiny", text))
    [app] = file["applications"]
    app["name"], app["route_prefix"] = name, f"/{name}"
    settings = app["args"]["settings"]
    for stage in STAGES:
        settings[stage] |= {"device": "cpu", "precision": "float32", "num_gpus": 0, "num_cpus": 0.05, "threads": 1}
        settings[stage]["autoscaling"]["min_replicas"] = 1
    settings["image_encoder"]["cache_bytes"] = 2**26
    settings["ingress"] |= {"num_cpus": 0.05, "num_replicas": 1}
    settings["auth"] = {"mode": "none"}
    return file


def settings_of(file: File) -> dict[str, Any]:
    """`args.settings`, to be changed where they stand."""
    settings: dict[str, Any] = file["applications"][0]["args"]["settings"]
    return settings


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


def replicas(name: str) -> set[str]:
    """`DEPLOYMENT#ID` of the running actors of an application; a replica that is replaced has another id."""
    import ray.util

    names = (actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True))
    prefix = f"SERVE_REPLICA::{name}#"
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
