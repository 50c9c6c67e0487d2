"""The manifests among themselves: contained pods, stages on their groups, and names that are really there."""

from __future__ import annotations

import re
import shlex
from itertools import product
from math import floor
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from ray.autoscaler._private.kuberay import autoscaling_config
from ray.autoscaler._private.kuberay.utils import parse_quantity
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from deployments.app import build_app
from deployments.catalogue import Catalogue
from deployments.cli import app as command_line
from deployments.settings import Settings, resolve
from pipeline import __version__
from pipeline.models.registry import CHECKPOINTS, CHECKPOINTS_VARIABLE
from tests.configs.manifests import FOLDER, NAMESPACE, ROOT, Pod, cluster, objects, of_kind, pods, selects, the

STAGES = ("detector", "image_encoder", "mask_decoder", "ingress")
RAY_WRITES = {"/dev/shm", "/tmp", "/tmp/ray", "/home/text2mask"}
CONTAINED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
RAY = ("RayService", "RayJob")
PAGE = (ROOT / "docs" / "kubernetes.md").read_text("utf-8")

every_pod = pytest.mark.parametrize("pod", pods(), ids=lambda pod: pod.name)


def serve_config() -> Any:
    return yaml.safe_load(the("RayService")["spec"]["serveConfigV2"])


def settings_of(config: Any) -> Settings:
    [application] = config["applications"]
    return resolve(yaml=application["args"]["settings"], environ={})


def test_each_object_has_a_name_of_its_own_in_one_namespace() -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in objects()]
    assert len(set(names)) == len(names)
    for one in objects():
        assert (one["metadata"]["name"] if one["kind"] == "Namespace" else one["metadata"]["namespace"]) == NAMESPACE
    labels = the("Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@every_pod
def test_a_pod_is_contained(pod: Pod) -> None:
    assert pod.labels["app.kubernetes.io/part-of"] == "text2mask"
    assert pod.spec["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & pod.spec.keys()
    whole = pod.spec["securityContext"]
    assert whole["runAsNonRoot"] is True
    assert min(whole["runAsUser"], whole["runAsGroup"], whole["fsGroup"]) > 0
    assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod.containers:
        assert container["securityContext"] == CONTAINED
    if pod.labels.get("ray.io/node-type") == "head":  # KubeRay gives it an account that may ask for pods
        assert "serviceAccountName" not in pod.spec
    else:
        assert pod.spec["automountServiceAccountToken"] is False
        accounts = {one["metadata"]["name"] for one in of_kind("ServiceAccount")}
        assert pod.spec["serviceAccountName"] in accounts


@every_pod
def test_a_pod_has_bounds_and_a_known_image(pod: Pod) -> None:
    for container in pod.containers:
        asked, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert asked["memory"] == limits["memory"]
        assert {"cpu", "memory"} <= asked.keys() == limits.keys()
        name, _, tag = container["image"].rpartition(":")
        assert re.search(r"\d", tag), container["image"]
        assert tag != "latest"
        if name.endswith("/text2mask"):
            assert tag in (f"{__version__}-cuda", f"{__version__}-cpu")


@every_pod
def test_volumes_are_there_and_bounded(pod: Pod) -> None:
    claims = {one["metadata"]["name"] for one in of_kind("PersistentVolumeClaim")}
    made = {
        template["metadata"]["name"]
        for one in of_kind("StatefulSet")
        for template in one["spec"]["volumeClaimTemplates"]
    }
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", ())}
    for container in pod.containers:
        for mount in container.get("volumeMounts", ()):
            assert mount["name"] in volumes.keys() | made
            source = volumes.get(mount["name"], {})
            if "secret" in source:
                assert mount["readOnly"] is True
    for volume in volumes.values():
        if "emptyDir" in volume:
            assert parse_quantity(volume["emptyDir"]["sizeLimit"]) > 0
        elif "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in claims
        else:
            assert "secret" in volume  # no host path, nothing else


@pytest.mark.parametrize("pod", [pod for pod in pods() if pod.runs_ray], ids=lambda pod: pod.name)
def test_ray_finds_room_where_it_writes(pod: Pod) -> None:
    [container] = pod.spec["containers"]
    sources = {volume["name"]: volume for volume in pod.spec["volumes"]}
    writable = {
        mount["mountPath"]: sources[mount["name"]] for mount in container["volumeMounts"] if not mount.get("readOnly")
    }
    assert writable.keys() == RAY_WRITES
    shared = writable["/dev/shm"]["emptyDir"]
    assert shared["medium"] == "Memory"
    spec = cluster(pod.owner)
    groups = {"headgroup": spec["headGroupSpec"], **{one["groupName"]: one for one in spec["workerGroupSpecs"]}}
    store = int(groups[pod.group]["rayStartParams"]["object-store-memory"])
    assert store < parse_quantity(shared["sizeLimit"]) < parse_quantity(container["resources"]["limits"]["memory"]) / 2


@pytest.mark.parametrize("kind", RAY)
def test_the_autoscaler_beside_the_head_is_contained_too(kind: str) -> None:
    spec = cluster(kind)
    options = spec["autoscalerOptions"]
    assert spec["enableInTreeAutoscaling"] is True
    assert options["version"] == "v2"
    assert options["securityContext"] == CONTAINED
    head = spec["headGroupSpec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in options["volumeMounts"]}
    assert mounts.keys() >= {"/tmp", "/tmp/ray"}
    assert set(mounts.values()) <= {volume["name"] for volume in head["volumes"]}


@pytest.mark.parametrize("kind", RAY)
def test_what_kuberay_itself_refuses(kind: str) -> None:
    import ray

    spec = cluster(kind)
    assert spec["rayVersion"] == ray.__version__
    assert spec["authOptions"] == {"mode": "token"}
    assert len(the(kind)["metadata"]["name"]) <= 47
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert "restartPolicy" not in group["template"]["spec"]  # Never, by the second autoscaler
        own = {"num-cpus", "num-gpus", "memory", "resources", "labels"} & group["rayStartParams"].keys()
        assert not (own and "resources" in group)
        environment = {one["name"] for one in group["template"]["spec"]["containers"][0].get("env", ())}
        assert not environment & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "RAY_enable_autoscaler_v2"}
        for container in group["template"]["spec"]["containers"]:
            assert not {"livenessProbe", "readinessProbe"} & container.keys()  # KubeRay's own know Serve's proxy


def test_a_cluster_survives_its_head_and_is_replaced_without_a_gap() -> None:
    spec = the("RayService")["spec"]
    assert spec["upgradeStrategy"] == {"type": "NewCluster"}
    longest = settings_of(serve_config()).limits.max_timeout_s
    assert spec["rayClusterDeletionDelaySeconds"] > longest
    survives = spec["rayClusterConfig"]["gcsFaultToleranceOptions"]
    host, port = survives["redisAddress"].split(":")
    service = the("Service")
    assert (service["metadata"]["name"], service["spec"]["ports"][0]["port"]) == (host, int(port))
    assert "externalStorageNamespace" not in survives  # two clusters live side by side: to each its own


def test_ray_takes_the_configuration_and_so_do_the_settings() -> None:
    config = serve_config()
    ServeDeploySchema.model_validate(config)
    settings = settings_of(config)
    assert settings.auth.mode == "keys"
    assert not settings.fused


def test_it_is_the_cluster_file_with_each_stage_pinned() -> None:
    pinned = serve_config()
    sections = pinned["applications"][0]["args"]["settings"]
    for stage in STAGES:
        assert sections[stage].pop("resources") == {stage.replace("_", "-"): 0.01}
    assert pinned == yaml.safe_load((ROOT / "configs" / "cluster.yaml").read_text("utf-8"))


def placements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, float]]:
    """What a replica of each deployment asks Ray for, as the builder of the application says."""
    for checkpoint in CHECKPOINTS.values():
        (tmp_path / checkpoint.file).touch()
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, str(tmp_path))
    monkeypatch.setattr(Catalogue, "check_weights", lambda catalogue: None)  # the files are empty
    keys = tmp_path / "keys.yaml"
    keys.write_text(f'- {{"owner": "a", "sha256": "{"0" * 64}"}}\n', "utf-8")
    args = serve_config()["applications"][0]["args"]
    found: dict[str, dict[str, float]] = {}
    _collect(build_app({**args, "auth.keys_file": str(keys)}), found)
    return found


def _collect(node: object, into: dict[str, dict[str, float]]) -> None:
    if isinstance(node, Application):
        deployment = node._bound_deployment
        asked = deployment.ray_actor_options or {}
        into[deployment.name] = {"CPU": asked["num_cpus"], "GPU": asked["num_gpus"], **asked["resources"]}
        for argument in deployment.init_args:
            _collect(argument, into)
    elif isinstance(node, dict):
        for one in node.values():
            _collect(one, into)


def groups(kind: str) -> dict[str, Any]:
    """Each group as Ray's own autoscaler reads it."""
    types: dict[str, Any] = autoscaling_config._generate_available_node_types_from_ray_cr_spec(cluster(kind))
    return types


def room(resources: dict[str, float], asked: dict[str, float]) -> int:
    """Replicas that fit on a node."""
    return min(floor(resources.get(name, 0) / amount + 1e-9) for name, amount in asked.items() if amount)


def test_a_replica_fits_its_own_group_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replicas = placements(tmp_path, monkeypatch)
    nodes = groups("RayService")
    assert len(replicas) == 4 == len(nodes) - 1
    for (name, asked), (group, node) in product(replicas.items(), nodes.items()):
        own = name == group or name.startswith(f"{group}-")
        assert (room(node["resources"], asked) > 0) is own, (name, group)


def test_groups_have_room_for_all_replicas_and_no_idle_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(serve_config())
    nodes = groups("RayService")
    for name, asked in placements(tmp_path, monkeypatch).items():
        [group] = [group for group in nodes if name == group or name.startswith(f"{group}-")]
        stage = getattr(settings, group.replace("-", "_"))
        scale = stage.autoscaling
        least, most = (scale.min_replicas, scale.max_replicas) if scale else (stage.num_replicas, stage.num_replicas)
        each = room(nodes[group]["resources"], asked)
        assert nodes[group]["min_workers"] == -(-least // each), group
        assert nodes[group]["max_workers"] == -(-most // each), group


def test_pods_have_what_ray_gives_out_on_them() -> None:
    for kind in RAY:
        for group in cluster(kind)["workerGroupSpecs"]:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            given = groups(kind)[group["groupName"]]["resources"]
            assert given["CPU"] <= parse_quantity(limits["cpu"])
            assert given.get("GPU", 0) == int(limits.get("nvidia.com/gpu", 0))
        assert groups(kind)["headgroup"]["resources"]["CPU"] == 0


def test_a_budget_protects_a_group_and_never_blocks_a_drain() -> None:
    spec = cluster("RayService")
    for budget in of_kind("PodDisruptionBudget"):
        kept = budget["spec"]["minAvailable"]
        assert type(kept) is int  # of pods without a known controller Kubernetes takes nothing else
        assert "maxUnavailable" not in budget["spec"]
        [pod] = [pod for pod in pods() if selects(budget["spec"]["selector"], pod.labels)]
        [least] = [group["minReplicas"] for group in spec["workerGroupSpecs"] if group["groupName"] == pod.group]
        assert 0 < kept < least


def test_prometheus_finds_every_node_of_ray() -> None:
    monitor = the("PodMonitor")["spec"]
    ports = [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]]
    for pod in pods():
        if pod.runs_ray:
            assert selects(monitor["selector"], pod.labels)
            named = {port["name"]: port["containerPort"] for port in pod.spec["containers"][0]["ports"]}
            assert named["metrics"] == 8080
            assert (set(ports) <= named.keys()) is (pod.group == "headgroup")


def test_services_lead_to_a_port_of_a_pod() -> None:
    for service in of_kind("Service"):
        [pod] = [pod for pod in pods() if selects({"matchLabels": service["spec"]["selector"]}, pod.labels)]
        names = {port["name"] for container in pod.containers for port in container.get("ports", ())}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


def secrets(node: object) -> set[tuple[str, str | None]]:
    """Each Secret that is referred to, with its key, or None where all are mounted."""
    if isinstance(node, list):
        return {one for part in node for one in secrets(part)}
    if not isinstance(node, dict):
        return set()
    found: set[tuple[str, str | None]] = set()
    if "secretKeyRef" in node:
        found.add((node["secretKeyRef"]["name"], node["secretKeyRef"]["key"]))
    if "secretName" in node:
        found.add((node["secretName"], None))
    return found.union(*(secrets(part) for part in node.values()))


def test_every_secret_is_made_on_the_page_and_none_is_in_a_file() -> None:
    assert not of_kind("Secret")
    made = dict(re.findall(r"create secret generic (\S+) (.+)$", PAGE.replace("\\\n", " "), re.MULTILINE))
    used = secrets([*objects()])
    assert len(used) >= 4
    for name, key in used:
        assert name in made
        assert key is None or f"={key}=" in made[name]
    keys_file = settings_of(serve_config()).auth.keys_file
    assert keys_file is not None
    assert f"{keys_file.name}=" in made["text2mask-keys"]


def test_every_file_is_applied_on_the_page() -> None:
    for path in FOLDER.glob("*.yaml"):
        assert f"configs/kuberay/{path.name}" in PAGE


def downloaded(pod: Pod) -> set[str]:
    """The models that a pod's `text2mask download` names."""
    found = [one["command"] for one in pod.containers if one.get("command", [])[:2] == ["text2mask", "download"]]
    return {part for command in found for part in command[2].split("+")}


def test_weights_are_fetched_and_checked_before_ray_starts() -> None:
    model = settings_of(serve_config()).model
    assert model is not None
    wanted = {"RayService": set(model.split("+")), "RayJob": job_models()}
    [fetched] = [downloaded(pod) for pod in pods() if pod.owner == "Job"]
    assert fetched == wanted["RayService"] | wanted["RayJob"]
    for pod in pods():
        if pod.runs_ray:
            computes = any("nvidia.com/gpu" in one["resources"]["limits"] for one in pod.containers)
            assert downloaded(pod) == (wanted[pod.owner] if computes else set())
            [mount] = [one for one in pod.spec["containers"][0]["volumeMounts"] if one["name"] == "weights"]
            assert mount == {"name": "weights", "mountPath": "/weights", "readOnly": True}


def job_command() -> tuple[list[str], dict[str, Any]]:
    """The entrypoint of the job, and what `text2mask` reads of it."""
    words = shlex.split(the("RayJob")["spec"]["entrypoint"])
    root = typer.main.get_command(command_line)
    assert words[0] == "text2mask"
    name, command, rest = root.resolve_command(root.make_context("text2mask", words[1:]), words[1:])  # type: ignore[attr-defined]
    assert command is not None
    return words, command.make_context(name, rest).params


def job_models() -> set[str]:
    _, given = job_command()
    in_image = Path("/opt/text2mask")
    config = yaml.safe_load((ROOT / given["config"].relative_to(in_image)).read_text("utf-8"))
    model = settings_of(config).model
    assert model is not None
    return set(model.split("+"))


def test_the_job_is_a_command_that_goes_on_where_it_was() -> None:
    spec = the("RayJob")["spec"]
    words, given = job_command()
    assert "--overwrite" not in words
    assert given["source"].startswith("s3://")
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True  # else KubeRay takes neither `suspend` nor the seconds
    assert spec["ttlSecondsAfterFinished"] > 0
    assert "entrypointNumCpus" not in spec  # the driver stays on the head
    assert spec["submitterPodTemplate"]["spec"]["restartPolicy"] == "Never"
    [group] = spec["rayClusterSpec"]["workerGroupSpecs"]
    most = int(given["detector_replicas"].split(":")[1])
    assert group["maxReplicas"] == most == int(given["segmenter_replicas"].split(":")[1])
