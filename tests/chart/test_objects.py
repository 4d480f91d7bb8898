"""Every object that the chart's value sets render is valid, complete and what it was when it was last looked at."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest

from tests.chart import crd
from tests.chart.charts import CHART, SETS, Group, Render, chart_render, generator, loaded, render

VERSIONS = ("1.30", "1.37")
FOREIGN = (
    *("RayService", "RayCluster", "HTTPRoute", "GRPCRoute"),
    *("Certificate", "ServiceMonitor", "PodMonitor", "PrometheusRule"),
)
"""Kinds that Kubernetes itself does not know."""
INFO = 1
"""Severity in Helm's lint."""
LABELS = {
    f"app.kubernetes.io/{name}" for name in ("name", "instance", "component", "version", "managed-by", "part-of")
} | {"helm.sh/chart"}


@pytest.fixture(params=sorted(SETS))
def made(request: pytest.FixtureRequest) -> Render:
    """A render of one of ci/'s value sets."""
    return render(SETS[request.param])


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_are_strictly_valid(made: Render, version: str) -> None:
    for name, found in made.objects.items():
        if found["kind"] not in FOREIGN:
            assert kubernetes_validate.validate(found, version, strict=True), name


@pytest.mark.parametrize("version", VERSIONS)
def test_pod_templates_of_ray_are_strictly_valid(made: Render, version: str) -> None:
    for group in made.pods:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **group.template["metadata"]}}
        kubernetes_validate.validate({**pod, "spec": group.pod}, version, strict=True)


def test_ray_objects_have_only_fields_that_kuberay_knows(made: Render) -> None:
    errors = []
    for service in made.of("RayService"):
        errors = list(crd.validator().iter_errors(service["spec"]))
    for cluster in made.of("RayCluster"):  # a RayService's `rayClusterConfig` is this
        errors = list(crd.validator().iter_errors({"rayClusterConfig": cluster["spec"]}))
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("rayClusterConfig.workerGroupSpecs.0.replicaz", 1, "replicaz"),
        ("rayClusterConfig.workerGroupSpecs.0.replicas", "three", "'three' is not of type 'integer'"),
        ("rayClusterConfig.workerGroupSpecs.0.template.spec.containers.0.imagePullPolice", "x", "imagePullPolice"),
        ("upgradeStrategy.typ", "None", "typ"),
    ],
)
def test_kuberays_schema_catches_mistakes(path: str, value: Any, message: str) -> None:
    (service,) = render({}).of("RayService")
    spec = json.loads(json.dumps(service["spec"]))
    *steps, last = path.split(".")
    here = spec
    for step in steps:
        here = here[int(step)] if isinstance(here, list) else here[step]
    here[last] = value
    assert any(message in error.message for error in crd.validator().iter_errors(spec))


def test_renders_are_as_they_were(made: Render, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["made"]
    golden = (generator.GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")
    now = generator.golden(made.files)
    assert now == golden, f"the render of ci/{name}-values.yaml changed: run `make chart` and look at `git diff`"


def test_a_file_makes_one_object(made: Render) -> None:
    for name in made.files:
        if name.endswith(".yaml") and name != "extra-objects.yaml":
            assert sum(found.startswith(f"{name}:") for found in made.objects) == 1, name


def test_a_render_depends_on_nothing_but_the_values(made: Render, request: pytest.FixtureRequest) -> None:
    values = SETS[request.node.callspec.params["made"]]
    assert chart_render.__wrapped__(json.dumps(values, sort_keys=True)) == made.files
    sources = "".join(file.read_text(encoding="utf-8") for file in (CHART / "templates").rglob("*.*"))
    forbidden = (
        r"\b(now|date|rand\w+|uuidv4|gen(CA|SignedCert|SelfSignedCert|PrivateKey)|lookup|getHostByName|shuffle)\b"
    )
    actions = re.sub(r"\{\{-? ?/\*.*?\*/ ?-?\}\}", "", sources, flags=re.DOTALL)
    for action in re.findall(r"\{\{.*?\}\}", actions, flags=re.DOTALL):
        assert not re.search(forbidden, re.sub(r'"[^"]*"', "", action)), action


def test_every_object_has_the_labels_and_the_namespace(made: Render) -> None:
    for name, found in made.objects.items():
        if not name.startswith("extra-objects.yaml"):
            assert set(found["metadata"]["labels"]) >= LABELS, name
            assert found["metadata"]["namespace"] == "serving", name


def test_names_are_unique_and_short(made: Render) -> None:
    names = [(found["kind"], found["metadata"]["name"]) for found in made.objects.values()]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 63 for _, name in names)


def test_nothing_secret_is_rendered(made: Render) -> None:
    assert not made.of("Secret")
    for group in made.pods:
        for container in (*group.pod.get("initContainers", ()), *group.pod["containers"]):
            for variable in container.get("env", ()):
                if re.search("(TOKEN|PASSWORD|SECRET|KEY)$", variable["name"]):
                    assert "secretKeyRef" in variable["valueFrom"], (group.name, variable["name"])


def test_only_the_download_sees_the_models_token() -> None:
    made = render(SETS["cpu"])
    with_token = [group.name for group in made.pods if "hugging-face" in json.dumps(group.template)]
    assert len(with_token) == 1
    assert with_token[0].startswith("demo-triptych-model-")


def test_only_front_doors_see_keys_and_certificate() -> None:
    made = render(SETS["tls"])
    for word in ("triptych-keys", "demo-triptych-tls"):
        assert [group.name for group in made.pods if word in json.dumps(group.pod["volumes"])] == ["frontdoor"]


def test_the_password_of_redis_is_a_file_of_front_doors_and_in_no_configuration() -> None:
    made = render(SETS["external-redis"])
    assert made.config["redis"] == {
        "url": "redis://triptych@redis.data.svc:6380/0",
        "prefix": "demo-triptych",
        "password_file": "/etc/triptych/redis/password",
    }
    assert [group.name for group in made.workers if "redis-password" in json.dumps(group.pod["volumes"])] == [
        "frontdoor"
    ]


def of_name(groups: list[Group], name: str) -> Group:
    """The group of that name."""
    (found,) = (group for group in groups if group.name == name)
    return found


def test_every_worker_group_has_its_own_readiness_probe(made: Render) -> None:
    """KubeRay's own asks for a Serve proxy that is not run (kuberay#4994)."""
    for group in made.workers:
        probe = group.main["readinessProbe"]["httpGet"]
        assert probe["path"] == ("/readyz" if group.name == "frontdoor" else "/api/local_raylet_healthz")


def test_lint_has_no_complaint() -> None:
    found = helm_python.lint(CHART, strict=True, kube_version="v1.30.0")
    assert not found["errors"]
    assert [message for message in found["messages"] if message["severity"] > INFO] == []


def test_the_chart_ships_no_test_values() -> None:
    assert "ci/" in (CHART / ".helmignore").read_text(encoding="utf-8")
    assert all(Path(file["name"]).parts[0] != "ci" for file in loaded().files)
