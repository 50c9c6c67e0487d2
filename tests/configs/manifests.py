"""configs/kuberay as Kubernetes sees it: its objects, and the pods that come of them with KubeRay's labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "configs" / "kuberay"
NAMESPACE = "text2mask"


@dataclass(frozen=True)
class Pod:
    """A pod of `owner`. `spec` is its template's; `labels` hold those that KubeRay adds."""

    owner: str
    group: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.owner}/{self.group}"

    @property
    def containers(self) -> list[Any]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def runs_ray(self) -> bool:
        return "ray.io/node-type" in self.labels


@cache
def objects() -> tuple[Any, ...]:
    """All documents of all files."""
    return tuple(
        document for path in sorted(FOLDER.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text("utf-8"))
    )


def of_kind(kind: str) -> list[Any]:
    return [one for one in objects() if one["kind"] == kind]


def the(kind: str) -> Any:
    [one] = of_kind(kind)
    return one


def cluster(kind: str) -> Any:
    """The RayClusterSpec in the RayService or the RayJob."""
    return the(kind)["spec"]["rayClusterConfig" if kind == "RayService" else "rayClusterSpec"]


def pods() -> list[Pod]:
    return list(_pods())


def _pods() -> Iterator[Pod]:
    for kind in ("RayService", "RayJob"):
        spec = cluster(kind)
        yield _pod(kind, "headgroup", spec["headGroupSpec"]["template"], "head")
        for group in spec["workerGroupSpecs"]:
            yield _pod(kind, group["groupName"], group["template"], "worker")
    yield _pod("RayJob", "submitter", the("RayJob")["spec"]["submitterPodTemplate"])
    for kind in ("Job", "StatefulSet"):
        for one in of_kind(kind):
            yield _pod(kind, one["metadata"]["name"], one["spec"]["template"])


def _pod(owner: str, group: str, template: Any, node_type: str | None = None) -> Pod:
    labels = dict(template["metadata"]["labels"])
    if node_type is not None:
        labels |= {"ray.io/is-ray-node": "yes", "ray.io/node-type": node_type, "ray.io/group": group}
    return Pod(owner, group, labels, template["spec"])


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector takes `labels`; of operators only `In` is used here."""
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
