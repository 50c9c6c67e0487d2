"""RayService and RayJob against KubeRay's own schema, in which an unknown field counts as a fault, at any depth.

The definitions are KubeRay 1.7.0's `ray.io_rayservices.yaml` and `ray.io_rayjobs.yaml`, in the folder that the variable
KUBERAY_CRDS names, or in one called `kuberay-crds` or `kuberay-1.7.0` near the repository.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.configs.manifests import ROOT, the
from tests.configs.structural import faults


@cache
def _folder() -> Path | None:
    told = os.environ.get("KUBERAY_CRDS")
    if told:
        return Path(told)
    near = (ROOT.parent.glob(pattern) for pattern in ("kuberay-crds", "kuberay-1.7.0", "*/*/kuberay-1.7.0"))
    return next((found for one in near for found in one if found.is_dir()), None)


def _schema(plural: str) -> Any:
    folder = _folder()
    if folder is None:
        pytest.skip("KubeRay's definitions are not at hand: name their folder in KUBERAY_CRDS")
    return _read(folder / f"ray.io_{plural}.yaml")


@cache
def _read(path: Path) -> Any:
    definition = yaml.load(path.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    [version] = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    # What every object has, and the definition leaves open.
    schema["properties"]["metadata"] = {
        "type": "object",
        "required": ["name", "namespace"],
        "properties": {"name": {"type": "string"}, "namespace": {"type": "string"}},
    }
    return schema


@pytest.mark.parametrize("kind", ["RayService", "RayJob"])
def test_it_fits_its_definition(kind: str) -> None:
    assert list(faults(_schema(f"{kind.lower()}s"), the(kind))) == []


def _deep_unknown(it: Any) -> None:
    it["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["securityContext"][
        "readonly"
    ] = 1


def _other_version(it: Any) -> None:
    it["rayClusterConfig"]["autoscalerOptions"]["version"] = "v3"


def _text_for_number(it: Any) -> None:
    it["rayClusterConfig"]["workerGroupSpecs"][1]["maxReplicas"] = "8"


def _no_name(it: Any) -> None:
    del it["rayClusterConfig"]["workerGroupSpecs"][0]["groupName"]


def _no_quantity(it: Any) -> None:
    it["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = (
        "8 G"
    )


def _number_for_text(it: Any) -> None:
    it["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def _flag_for_number(it: Any) -> None:
    it["rayClusterDeletionDelaySeconds"] = True


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (_deep_unknown, "securityContext.readonly: unknown"),
        (_other_version, ".version: 'v3' is none of"),
        (_text_for_number, "[1].maxReplicas: no integer"),
        (_no_name, "[0].groupName: missing"),
        (_no_quantity, "limits.memory: '8 G' is not of the form"),
        (_number_for_text, "rayStartParams.num-cpus: no string"),
        (_flag_for_number, "rayClusterDeletionDelaySeconds: no integer"),
    ],
)
def test_a_fault_would_be_found(spoil: Callable[[Any], None], where: str) -> None:
    schema = _schema("rayservices")
    spoilt = copy.deepcopy(the("RayService"))
    spoil(spoilt["spec"])
    found = list(faults(schema, spoilt))
    assert found
    assert all(where in fault for fault in found)  # by YAML's aliases one part may stand in several places
