"""Who reaches whom, by the rules of Kubernetes' NetworkPolicy over the pods of the manifests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.configs.manifests import NAMESPACE, of_kind, pods, selects


@dataclass(frozen=True)
class End:
    """One side of a connection: a pod, or, without labels and namespace, an address outside."""

    namespace: str | None = None
    labels: dict[str, str] = field(default_factory=dict)


PODS = {pod.name: End(NAMESPACE, dict(pod.labels)) for pod in pods()}
SERVICE, JOB = PODS["RayService/headgroup"], PODS["RayJob/headgroup"]
ENDS = {
    **PODS,
    "front": End(NAMESPACE, {"text2mask/front": "true"}),
    "neighbour": End(NAMESPACE, {"app": "other"}),
    "stranger": End("default", {"app.kubernetes.io/component": "service", "ray.io/node-type": "head"}),
    "operator": End("kuberay", {"app.kubernetes.io/name": "kuberay-operator"}),
    "prometheus": End("monitoring", {"app.kubernetes.io/name": "prometheus"}),
    "dns": End("kube-system", {"k8s-app": "kube-dns"}),
    "cleanup": End(NAMESPACE, {**SERVICE.labels, "ray.io/node-type": "redis-cleanup"}),
    "outside": End(),
}
WORKERS = [name for name in PODS if name.startswith("RayService/") and name != "RayService/headgroup"]
CLUSTERS = {"RayService": "RayService/headgroup", "RayJob": "RayJob/headgroup"}


def reaches(source: str, target: str, port: int) -> bool:
    """Both sides have to allow it: what leaves the one, and what enters the other."""
    one, other = ENDS[source], ENDS[target]
    return _allowed("Egress", one, other, port) and _allowed("Ingress", other, one, port)


def _allowed(direction: str, inside: End, peer: End, port: int) -> bool:
    if inside.namespace != NAMESPACE:
        return True
    rules = [
        rule
        for policy in of_kind("NetworkPolicy")
        if direction in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], inside.labels)
        for rule in [*policy["spec"].get(direction.lower(), ()), None]
    ]
    assert None in rules, "a pod without a policy is open"
    side = "to" if direction == "Egress" else "from"
    return any(rule is not None and _fits(rule, side, peer, port) for rule in rules)


def _fits(rule: Any, side: str, peer: End, port: int) -> bool:
    ports = [one["port"] for one in rule.get("ports", ())]
    peers = rule.get(side)
    return (not ports or port in ports) and (peers is None or any(_is(one, peer) for one in peers))


def _is(wanted: Any, peer: End) -> bool:
    if peer.namespace is None:
        return False
    if "namespaceSelector" in wanted:
        there = selects(wanted["namespaceSelector"], {"kubernetes.io/metadata.name": peer.namespace})
    else:
        there = peer.namespace == NAMESPACE
    return there and selects(wanted.get("podSelector", {}), peer.labels)


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        *(("front", worker, 8000) for worker in WORKERS),
        *((worker, "RayService/headgroup", 6379) for worker in WORKERS),
        *(("RayService/headgroup", worker, 40000) for worker in WORKERS),
        ("outside", "front", 8443),
        ("RayService/ingress", "RayService/mask-decoder", 10002),
        ("operator", "RayService/headgroup", 8265),
        ("operator", "RayService/headgroup", 8000),
        ("operator", "RayJob/headgroup", 8265),
        *(("prometheus", name, 8080) for name in PODS if name.startswith("Ray") and name != "RayJob/submitter"),
        ("prometheus", "RayService/headgroup", 44217),
        ("RayService/headgroup", "StatefulSet/text2mask-redis", 6379),
        ("cleanup", "StatefulSet/text2mask-redis", 6379),
        ("RayJob/submitter", "RayJob/headgroup", 8265),
        ("RayJob/gpu", "RayJob/headgroup", 6379),
        ("RayService/headgroup", "outside", 6443),
        ("RayJob/headgroup", "outside", 443),
        ("RayJob/gpu", "outside", 443),
        ("Job/text2mask-weights", "outside", 443),
        *((name, "dns", 53) for name in PODS),
    ],
)
def test_what_has_to_pass_passes(source: str, target: str, port: int) -> None:
    assert reaches(source, target, port)


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        *(("front", head, port) for head in CLUSTERS.values() for port in (6379, 8000, 8265, 10001)),
        *(("front", worker, port) for worker in WORKERS for port in (8080, 8265, 10002)),
        *((who, name, port) for who in ("neighbour", "stranger") for name in PODS for port in (6379, 8000, 8080, 8265)),
        ("front", "outside", 443),
        ("outside", "neighbour", 8000),  # whatever else runs here is denied too
        ("neighbour", "outside", 443),
        *(("outside", name, port) for name in PODS for port in (6379, 8000, 8080, 8265, 8443)),
        ("operator", "RayService/headgroup", 6379),
        ("operator", "RayService/ingress", 8000),
        *(("prometheus", name, port) for name in PODS for port in (6379, 8000, 8265)),
        ("RayService/ingress", "StatefulSet/text2mask-redis", 6379),
        ("RayJob/headgroup", "StatefulSet/text2mask-redis", 6379),
        ("RayJob/gpu", "RayService/headgroup", 6379),
        ("RayService/ingress", "RayJob/headgroup", 8265),
        ("RayJob/submitter", "RayService/headgroup", 8265),
        ("RayJob/submitter", "RayJob/headgroup", 6379),
        *((worker, "outside", 443) for worker in WORKERS),
        ("StatefulSet/text2mask-redis", "outside", 443),
        ("RayJob/submitter", "outside", 443),
        *((name, "outside", 80) for name in PODS),
        *((name, "stranger", 53) for name in PODS),
    ],
)
def test_what_must_not_pass_does_not(source: str, target: str, port: int) -> None:
    assert not reaches(source, target, port)
