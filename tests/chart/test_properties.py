"""What holds for any values that the chart accepts."""

from __future__ import annotations

import json
from typing import Any

import helm_python
import kubernetes_validate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.cluster.config import ClusterConfig
from services.cluster.topology import FRONT_DOOR, pools
from services.core.config import parse
from tests.chart import crd
from tests.chart.charts import SETS, Render, merged, render

PROPERTIES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
COUNTS = st.integers(1, 9)
WORDS = st.sampled_from(["a", "gpu", "x-1", "serving"])
MAPS = st.dictionaries(st.sampled_from(["example.com/team", "zone", "tier"]), WORDS, max_size=2)
QUANTITIES = st.sampled_from(["512Mi", "3Gi", "64Gi"])


def some(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A map with any of these keys."""
    return st.fixed_dictionaries({}, optional=parts)


ROLE = some(
    replicas=COUNTS,
    accelerators=some(count=st.integers(0, 8), resource=st.sampled_from(["nvidia.com/gpu", "amd.com/gpu"])),
    env=st.dictionaries(st.sampled_from(["NCCL_DEBUG", "GLOO_SOCKET_IFNAME", "OMP_NUM_THREADS"]), WORDS, max_size=2),
    shmSize=QUANTITIES,
    podLabels=MAPS,
    podAnnotations=MAPS,
    nodeSelector=MAPS,
    tolerations=st.lists(st.just({"operator": "Exists"}), max_size=1),
    topologySpreadConstraints=st.lists(
        st.just({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}), max_size=1
    ),
    priorityClassName=st.sampled_from(["", "high"]),
    hostNetwork=st.booleans(),
    securityContext=st.sampled_from([{}, {"capabilities": {"add": ["IPC_LOCK"]}}]),
    drain=some(preStopSeconds=st.integers(0, 60), seconds=st.integers(0, 900), marginSeconds=st.integers(10, 60)),
    pdb=some(enabled=st.booleans(), maxUnavailable=st.sampled_from([1, "25%"])),
    sidecars=st.lists(
        st.just({"name": "sidecar", "image": "x", "securityContext": {"runAsNonRoot": True}}), max_size=1
    ),
)
CONFIG = some(
    cache=some(memory_bytes=st.integers(2**26, 2**40), block_size_tokens=st.sampled_from([16, 32])),
    model=some(dtype=st.sampled_from(["float32", "bfloat16"]), name=WORDS),
    pools=some(
        prefill=some(tp=st.integers(1, 8), threads=st.integers(1, 16)),
        decode=some(tp=st.integers(1, 8), threads=st.integers(1, 16)),
    ),
    frontdoor=some(max_running_requests=st.integers(1, 10**6), default_deadline_s=st.floats(0.5, 3600.0)),
    controller=some(ping_every_s=st.floats(0.1, 5.0)),
    semcache=some(enabled=st.booleans()),
)
VALUES = some(
    nameOverride=st.sampled_from(["", "llm"]),
    fullnameOverride=st.sampled_from(["", "a-rather-long-name-for-everything-here"]),
    commonLabels=MAPS,
    commonAnnotations=MAPS,
    config=CONFIG,
    roleDefaults=ROLE,
    roles=some(frontdoor=ROLE, prefill=ROLE, decode=ROLE),
    ray=some(
        mode=st.sampled_from(["service", "cluster"]),
        autoscaling=some(enabled=st.booleans()),
        auth=some(mode=st.sampled_from(["token", "disabled"])),
        head=some(nodeSelector=MAPS),
    ),
    networkPolicy=some(enabled=st.booleans(), egress=some(enabled=st.booleans())),
    topology=some(keys=st.lists(st.sampled_from(["zone", "rack", "host"]), unique=True)),
    service=some(type=st.sampled_from(["ClusterIP", "LoadBalancer"]), annotations=MAPS),
    podSecurityContext=some(runAsUser=st.integers(1, 65535), supplementalGroups=st.just([44])),
)
values_of = st.builds(merged, st.sampled_from([SETS[name] for name in sorted(SETS) if name != "byo-ray"]), VALUES)


def accepted(values: dict[str, Any]) -> Render | None:
    """The render; None when the chart refuses the values by name, which it may: pods fewer than `minReplicas`."""
    try:
        return render(values)
    except helm_python.HelmError as error:
        assert "outside minReplicas" in str(error)
        return None


@PROPERTIES
@given(values_of)
def test_whatever_is_accepted_is_valid_and_keeps_its_promises(values: dict[str, Any]) -> None:
    made = accepted(values)
    if made is None:
        return
    assert made.cluster
    errors = list(crd.validator().iter_errors({"rayClusterConfig": made.cluster}))
    assert [error.json_path for error in errors] == []
    check_selectors(made)
    check_security(made)
    check_times(made)
    check_services(made)
    check_config(made)
    check_ports(made)


@settings(PROPERTIES, max_examples=4)
@given(values_of)
def test_whatever_is_accepted_is_valid_for_kubernetes(values: dict[str, Any]) -> None:
    made = accepted(values)
    if made is None:
        return
    for found in made.objects.values():
        if "ray.io" not in found["apiVersion"] and found["apiVersion"].partition("/")[0] in (
            "v1",
            "apps",
            "batch",
            "policy",
        ):
            kubernetes_validate.validate(found, "1.30", strict=True)
    for group in made.pods:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **group.template["metadata"]}}
        kubernetes_validate.validate({**pod, "spec": group.pod}, "1.30", strict=True)


def selector_of(found: dict[str, Any]) -> dict[str, str]:
    """Labels that an object selects pods by, {} when it selects none."""
    spec = found.get("spec", {})
    selector = spec.get("selector") or spec.get("podSelector") or {}
    labels: dict[str, str] = selector.get("matchLabels", {}) if "matchLabels" in selector or not selector else selector
    return labels


def check_selectors(made: Render) -> None:
    """A selector is name, instance and component at most, which no upgrade changes, and selects a pod."""
    allowed = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "component")}
    for name, found in made.objects.items():
        labels = selector_of(found)
        if labels and found["kind"] not in ("ServiceMonitor",):
            assert set(labels) <= allowed, name
            assert any(group.labels.items() >= labels.items() for group in made.pods), name
        template = found.get("spec", {}).get("template")
        if template and labels:
            assert template["metadata"]["labels"].items() >= labels.items(), name
        for term in spread_and_affinity(found):
            assert any(group.labels.items() >= term.items() for group in made.pods), name


def spread_and_affinity(found: Any) -> list[dict[str, str]]:
    """Every `labelSelector.matchLabels` inside an object."""
    if isinstance(found, list):
        return [term for part in found for term in spread_and_affinity(part)]
    if not isinstance(found, dict):
        return []
    own = [found["labelSelector"]["matchLabels"]] if "labelSelector" in found else []
    return own + [term for part in found.values() for term in spread_and_affinity(part)]


def check_security(made: Render) -> None:
    """No container runs as root, gains privileges, writes its root or mounts a token."""
    for group in made.pods:
        pod = group.pod
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        if not (group.name == "head" and "enableInTreeAutoscaling" in (made.cluster or {})):
            assert pod["automountServiceAccountToken"] is False
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            if container["name"] != "sidecar":
                security = container["securityContext"]
                assert security["allowPrivilegeEscalation"] is False
                assert security["readOnlyRootFilesystem"] is True
                assert security["capabilities"]["drop"] == ["ALL"]
                assert container["resources"]["limits"]["memory"]


def check_times(made: Render) -> None:
    """A pod has time for what its preStop hook does, and the program drains no longer than that."""
    config = parse(ClusterConfig, made.config)
    for group in made.workers:
        command = group.main["lifecycle"]["preStop"]["exec"]["command"]
        given = dict(part.removeprefix("--").split("=") for part in command if part.startswith("--"))
        settle, drain = int(given["settle-s"]), int(given["drain-s"])
        assert group.pod["terminationGracePeriodSeconds"] >= settle + drain + 5
        bound = config.frontdoor.drain_s if group.name == FRONT_DOOR else config.controller.drain_s
        assert bound + 5 >= drain if group.name != FRONT_DOOR else bound + 5 == drain


def check_services(made: Render) -> None:
    """Every Service selects pods that have its ports; every probe asks a port that the pod has."""
    for service in made.of("Service"):
        chosen = [group for group in made.pods if group.labels.items() >= service["spec"]["selector"].items()]
        assert chosen
        for port in service["spec"]["ports"]:
            for group in chosen:
                known = {row["containerPort"] for row in group.main["ports"]} | {
                    row["name"] for row in group.main["ports"]
                }
                assert port.get("targetPort", port["port"]) in known


def check_config(made: Render) -> None:
    """The program reads the configuration; groups have as many pods and resources as it asks for."""
    config = parse(ClusterConfig, made.config)
    groups = {group.name: group.spec for group in made.workers}
    assert set(groups) == {FRONT_DOOR, *pools(config)}
    for name, pool in pools(config).items():
        assert groups[name]["replicas"] == pool.replicas
        assert groups[name]["resources"] == {name: str(pool.tp)}
        assert groups[name]["minReplicas"] <= groups[name]["replicas"] <= groups[name]["maxReplicas"]
    assert groups[FRONT_DOOR]["resources"] == {FRONT_DOOR: "1"}
    assert json.dumps(made.serve["applications"][0]["args"]["config"]) == json.dumps(made.config)


def check_ports(made: Render) -> None:
    """Ports of a container have names and numbers of their own."""
    for group in made.pods:
        for container in group.pod["containers"]:
            ports = container.get("ports", [])
            assert len({port["name"] for port in ports}) == len({port["containerPort"] for port in ports}) == len(ports)
            assert all(len(port["name"]) <= 15 for port in ports)
        if group in made.workers:
            assert "readinessProbe" in group.main
