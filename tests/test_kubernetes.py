"""Kubernetes manifests: kustomize builds them, schemas take them, and what they name is in the program.

Not covered: a cluster. Nothing here was ever scheduled.
"""

from __future__ import annotations

import copy
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml
from jsonschema import Draft202012Validator, ValidationError

import dicomnode.__main__
from dicomnode.config import load_settings
from dicomnode.observe.figures import Queue
from dicomnode.settings.database import DATABASE_URL
from dicomnode.settings.node import Settings
from dicomnode.web.health import ROUTES
from inference.registry import find_bundles
from tests.real_parts import require_program
from tests.test_deploy import ROOT, instructions

KUBERNETES = ROOT / "deploy/kubernetes"
VARIANTS = ("base", "cpu", "ray")
WORDS = {"type": "object", "additionalProperties": {"type": "string"}}
POD_TEMPLATE = {"type": "object", "required": ["spec"]}
"""Pods are judged by the schema of Kubernetes."""
RAY_CLUSTER = {
    "type": "object",
    "required": ["headGroupSpec"],
    "additionalProperties": False,
    "properties": {
        "rayVersion": {"type": "string"},
        "enableInTreeAutoscaling": {"type": "boolean"},
        "autoscalerOptions": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "idleTimeoutSeconds": {"type": "integer"},
                "resources": {"type": "object"},
                "securityContext": {"type": "object"},
            },
        },
        "headGroupSpec": {
            "type": "object",
            "required": ["rayStartParams", "template"],
            "additionalProperties": False,
            "properties": {"rayStartParams": WORDS, "template": POD_TEMPLATE},
        },
        "workerGroupSpecs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
                "additionalProperties": False,
                "properties": {
                    "groupName": {"type": "string"},
                    "replicas": {"type": "integer"},
                    "minReplicas": {"type": "integer"},
                    "maxReplicas": {"type": "integer"},
                    "rayStartParams": WORDS,
                    "template": POD_TEMPLATE,
                },
            },
        },
    },
}
"""What the definition of a RayCluster (ray.io/v1) says of the keys that are used here, in KubeRay 1.0 to 1.5.
The definition itself comes with the operator, and is not here."""
SCHEMA_VERSION = "1.32"
ROLES = {"receiver": "receive", "housekeeping": "housekeep", "worker": "work", "web": "web"}

Manifest = dict[str, Any]

pytestmark = pytest.mark.real_parts


def built(variant: str) -> list[Manifest]:
    done = subprocess.run(
        [require_program("kubectl"), "kustomize", KUBERNETES / variant],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def base() -> list[Manifest]:
    return built("base")


@pytest.fixture(scope="module")
def ray_cluster() -> Manifest:
    return named(built("ray"), "RayCluster", "models")


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(KUBERNETES / "base/node.toml")


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [one for one in manifests if one["kind"] == kind and one["metadata"]["name"].startswith(name)]
    return found


def templates(manifests: list[Manifest]) -> Iterator[Manifest]:
    """What each workload makes its pods of."""
    for one in manifests:
        spec = one.get("spec", {})
        groups = [spec.get("headGroupSpec", {}), *spec.get("workerGroupSpecs", [])]  # of a RayCluster
        for found in (spec, spec.get("jobTemplate", {}).get("spec", {}), *groups):
            if "template" in found:
                yield found["template"]


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Component and pod of each workload."""
    for template in templates(manifests):
        yield template["metadata"]["labels"]["app.kubernetes.io/component"], template["spec"]


def roles(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Component -> pod, of the roles of the node."""
    return {component: pod for component, pod in pods(manifests) if component in ROLES}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_schemas_of_kubernetes_take_every_manifest(variant: str) -> None:
    manifests = built(variant)
    assert len(manifests) > 10
    for manifest in manifests:
        if manifest["kind"] != "RayCluster":
            kubernetes_validate.validate(manifest, SCHEMA_VERSION, strict=True)


def test_a_ray_cluster_has_the_keys_that_its_definition_knows(ray_cluster: Manifest) -> None:
    assert ray_cluster["apiVersion"] == "ray.io/v1"
    judge = Draft202012Validator(RAY_CLUSTER)
    judge.validate(ray_cluster["spec"])
    for group in ray_cluster["spec"]["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    broken = copy.deepcopy(ray_cluster["spec"])
    broken["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0  # a number where words are asked for
    with pytest.raises(ValidationError, match="is not of type 'string'"):
        judge.validate(broken)


def test_pods_of_a_ray_cluster_are_pods(ray_cluster: Manifest) -> None:
    autoscaler = {"name": "autoscaler", "image": "a", **ray_cluster["spec"]["autoscalerOptions"]}
    del autoscaler["idleTimeoutSeconds"]
    specs = [template["spec"] for template in templates([ray_cluster])]
    for spec in (*specs, {"containers": [autoscaler]}):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}
        kubernetes_validate.validate(pod, SCHEMA_VERSION, strict=True)


def test_a_ray_cluster_runs_the_same_ray_everywhere(ray_cluster: Manifest) -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert ray_cluster["spec"]["rayVersion"] == pinned["ray"]
    images = {container["image"] for _, pod in pods(built("ray")) for container in pod["containers"]}
    assert len(images - {"postgres:17"}) == 1


def test_a_worker_joins_the_ray_cluster_that_its_settings_name() -> None:
    manifests = built("ray")
    settings = load_settings(KUBERNETES / "ray/node.toml")
    assert settings.inference.engine == "ray"
    head = f"{named(manifests, 'RayCluster', 'models')['metadata']['name']}-head-svc"
    assert settings.inference.address == f"{head}:6379"
    worker = roles(manifests)["worker"]
    (container,), (member,) = worker["containers"], worker["initContainers"]
    assert container["args"] == ["work", "--pool", settings.inference.pool[0].name]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert member["restartPolicy"] == "Always"
    assert f"--address={settings.inference.address}" in member["command"]
    assert worker["shareProcessNamespace"], "Ray looks for its other processes by their names"
    both = {(mount["name"], mount["mountPath"]) for mount in member["volumeMounts"]}
    assert both <= {(mount["name"], mount["mountPath"]) for mount in container["volumeMounts"]}


def test_its_settings_are_those_of_the_base_otherwise() -> None:
    ours, base = (tomllib.loads((KUBERNETES / name / "node.toml").read_text()) for name in ("ray", "base"))
    del ours["inference"]
    assert ours == base


def test_nobody_but_its_members_reaches_the_ray_cluster() -> None:
    policy = named(built("ray"), "NetworkPolicy", "ray-members")["spec"]
    (rule,) = policy["ingress"]
    assert [one["podSelector"] for one in rule["from"]] == [policy["podSelector"]]
    (expression,) = policy["podSelector"]["matchExpressions"]
    assert sorted(expression["values"]) == ["ray", "worker"]


def test_a_misspelt_key_would_be_noticed(base: list[Manifest]) -> None:
    broken = copy.deepcopy(named(base, "Deployment", "worker"))
    broken["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, SCHEMA_VERSION, strict=True)


def test_every_role_runs_once_and_by_its_command(base: list[Manifest]) -> None:
    commands = typer.main.get_command(dicomnode.__main__.app).commands  # type: ignore[attr-defined]
    found = roles(base)
    assert set(found) == set(ROLES)
    for component, pod in found.items():
        (container,) = pod["containers"]
        name, *options = container["args"]
        assert name == ROLES[component]
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(options[::2]) <= known


def test_ports_and_probes_are_those_of_the_program(base: list[Manifest], settings: Settings) -> None:
    assert settings.web is not None
    assert settings.web.proxies, "the ingress, or every visitor has its address"
    paths = {route.path for route in ROUTES}
    for component, port in (("receiver", settings.node.port), ("web", settings.web.port)):
        (container,) = roles(base)[component]["containers"]
        (opened,) = container["ports"]
        assert opened["containerPort"] == port
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe].get("httpGet") or container[probe]["tcpSocket"]
            assert asked["port"] == opened["name"]
            assert asked.get("path", "/healthz") in paths
        service = named(base, "Service", "dicom" if component == "receiver" else component)
        assert [one["port"] for one in service["spec"]["ports"]] == [port]
        assert named(base, "NetworkPolicy", component)["spec"]["ingress"][0]["ports"][0]["port"] == port
    annotations = named(base, "Deployment", "web")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings.web.port)
    assert annotations["prometheus.io/path"] in paths


def test_the_port_of_the_pacs_is_open_to_housekeeping(base: list[Manifest], settings: Settings) -> None:
    (rule,) = named(base, "NetworkPolicy", "housekeeping")["spec"]["egress"]
    assert {port["port"] for port in rule["ports"]} == {peer.port for peer in settings.peer}


def test_paths_and_variables_are_those_of_image_and_program(base: list[Manifest], settings: Settings) -> None:
    content = named(base, "ConfigMap", "node-config")["data"]
    assert tomllib.loads(content["node.toml"])["node"]["ae_title"] == settings.node.ae_title
    config = next(word for word in instructions("ENV")[-1].split() if word.startswith("DICOMNODE_CONFIG="))
    for pod in roles(base).values():
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["config"] == str(Path(config.partition("=")[2]).parent)
        assert mounts["data"] == str(settings.node.data) == instructions("VOLUME")[0]
        assert [variable["name"] for variable in container["env"]] == [DATABASE_URL]
        assert pod["securityContext"]["runAsUser"] == int(instructions("USER")[0].split(":")[0])
    assert {route.model for route in settings.route} <= set(find_bundles(ROOT / "config/models").names)


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_runs_with_rights_or_writes_into_its_image(variant: str) -> None:
    for _, pod in pods(built(variant)):
        assert pod["securityContext"]["runAsNonRoot"]
        scales = pod["containers"][0]["name"] == "ray-head"  # with its autoscaler
        assert scales or pod["automountServiceAccountToken"] is False
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"]
            assert not rights["allowPrivilegeEscalation"]
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]


def test_roles_get_the_time_that_they_need_to_end(base: list[Manifest], settings: Settings) -> None:
    from dicomnode.receive.listener import DRAIN_TIMEOUT_S

    receiver, worker = roles(base)["receiver"], roles(base)["worker"]
    before_s = float(receiver["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert receiver["terminationGracePeriodSeconds"] > before_s + DRAIN_TIMEOUT_S
    assert worker["terminationGracePeriodSeconds"] > settings.worker.job_timeout_s


def test_only_one_clockwork_runs_and_at_least_one_receiver(base: list[Manifest]) -> None:
    assert named(base, "StatefulSet", "housekeeping")["spec"]["replicas"] == 1
    assert named(base, "PodDisruptionBudget", "receiver")["spec"]["minAvailable"] == 1
    assert named(base, "Deployment", "receiver")["spec"]["replicas"] >= 2


def test_workers_are_scaled_by_a_metric_that_the_node_has(base: list[Manifest]) -> None:
    scaler = named(base, "HorizontalPodAutoscaler", "worker")["spec"]
    assert named(base, "Deployment", scaler["scaleTargetRef"]["name"])
    (metric,) = [one["external"]["metric"] for one in scaler["metrics"]]
    source = (ROOT / "dicomnode/observe/metrics.py").read_text()
    assert f'"{metric["name"]}"' in source
    assert metric["selector"]["matchLabels"] == {"queue": Queue.QUEUED_JOBS.value}
    adapter = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())
    assert [rule["seriesQuery"] for rule in adapter["rules"]["external"]] == [metric["name"]]


def test_selectors_meet_the_pods_that_they_are_for(base: list[Manifest]) -> None:
    labels = [template["metadata"]["labels"] for template in templates(base)]
    for manifest in base:
        spec = manifest.get("spec", {})
        selector: Manifest = spec.get("podSelector") or spec.get("selector") or {}
        wanted = selector.get("matchLabels", selector).items()
        met = sum(wanted <= one.items() for one in labels)
        everywhere = manifest["kind"] == "NetworkPolicy" and manifest["metadata"]["name"] == "lesion-node"
        assert met == len(labels) if everywhere else met >= 1, manifest["metadata"]["name"]


def test_a_gpu_is_asked_for_and_the_variant_without_has_none(base: list[Manifest]) -> None:
    def limits(manifests: list[Manifest]) -> dict[str, str]:
        found: dict[str, str] = roles(manifests)["worker"]["containers"][0]["resources"]["limits"]
        return found

    assert limits(base)["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in limits(built("cpu"))
