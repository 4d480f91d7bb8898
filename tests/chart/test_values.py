"""Values, schema, comments, README and templates say the same, and every value changes something."""

from __future__ import annotations

import json
import re
from typing import Any

import helm_python
import pytest
import yaml

from services.cluster.config import ClusterConfig
from tests.chart.charts import CHART, ROLES, ROOT, SETS, Render, generator, leaves, merged, nested, render

TAIL = ("roles", "config")
"""Their leaves are those of `roleDefaults` and of Triptych's own configuration."""
ON: dict[str, dict[str, Any]] = {
    "ray.autoscaling": SETS["gpu"],
    "ray.upgradeStrategy": {},
    "ray.clusterUpgradeStrategy": SETS["external-redis"],
    "ray.auth.existingSecret": {},
    "ray.external": SETS["byo-ray"],
    "deployJob": SETS["byo-ray"],
    "roleDefaults": {},
    "roleDefaults.minReplicas": {"roleDefaults": {"replicas": 2}},
    "roleDefaults.accelerators": {"roleDefaults": {"accelerators": {"count": 1}}},
    "redis.dev": SETS["tls"],
    "redis.external": SETS["external-redis"],
    "tls": SETS["tls"],
    "auth": SETS["tls"],
    "gang": SETS["gpu"],
    "httpRoute": SETS["gpu"],
    "grpcRoute": SETS["gpu"],
    "rbac": SETS["gpu"],
    "networkPolicy.egress": SETS["external-redis"],
    "networkPolicy.clients": SETS["external-redis"],
    "model.claim.existing": SETS["gpu"],
}
"""Values under which a key matters; elsewhere those of ci/cpu-values.yaml."""


def test_schema_and_readme_are_current() -> None:
    for file, text in generator.written().items():
        assert file.read_text(encoding="utf-8") == text, f"{file.relative_to(ROOT)} is stale: run `make chart`"


def test_the_defaults_obey_the_schema() -> None:
    import jsonschema

    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.Draft7Validator(schema).validate(generator.defaults())


def test_every_value_is_explained_once() -> None:
    known = [value.path for value in generator.documented()]
    assert len(set(known)) == len(known)
    for path, _ in leaves(generator.defaults()):
        assert any(path[:depth] in known for depth in range(1, len(path) + 1)), ".".join(path)
    for value in generator.documented():
        assert value.text.endswith((".", "`")), value.path


def test_every_section_of_the_schema_is_closed() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def look(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if node.get("type") == "object" and "properties" in node and path.split("/")[-1] not in generator.OPEN:
                assert node["additionalProperties"] is False, path
            for name, part in node.items():
                look(part, f"{path}/{name}")

    look(schema, "")


def test_the_configuration_of_the_schema_is_the_programs() -> None:
    """Every key of the program is in the schema or decided by the chart, and is what the program says."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    models = schema["definitions"]

    def keys(model: dict[str, Any], path: str) -> set[str]:
        found = set()
        for name, part in model["properties"].items():
            where = f"{path}{name}"
            reference = part.get("$ref", "").rpartition("/")[2]
            found |= keys(models[reference], f"{where}.") if reference else {where}
        return found

    def fields(model: Any, path: str) -> set[str]:
        found = set()
        for name, field in model.model_fields.items():
            inner = field.annotation
            nests = isinstance(inner, type) and hasattr(inner, "model_fields")
            found |= fields(inner, f"{path}{name}.") if nests else {f"{path}{name}"}
        return found

    derived = set(generator.DERIVED)
    own = {key for key in fields(ClusterConfig, "") if not any(f"{key}.".startswith(f"{name}.") for name in derived)}
    assert keys(models["ClusterConfig"], "") == own


def test_derived_keys_are_derived() -> None:
    """Every key that the schema keeps from the user is decided by the chart, with TLS, API keys and Redis on."""
    config = render(merged(SETS["tls"], {"redis": SETS["external-redis"]["redis"]})).config
    for key in generator.DERIVED:
        here: Any = config
        for name in key.split("."):
            assert name in here, key
            here = here[name]


def changed(value: Any, path: tuple[str, ...]) -> Any:
    """Another value of the same kind that the schema may take."""
    rules = next((known.rules for known in generator.documented() if known.path == path), {})
    if "enum" in rules:
        return next(other for other in rules["enum"] if other != value)
    if path[-1] in SPECIAL:
        return SPECIAL[path[-1]]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    return {"added": "x"} if isinstance(value, dict) or value is None else ["added"]


SPECIAL: dict[str, Any] = {
    "digest": "sha256:" + "0" * 64,
    "revision": "0" * 40,
    "sha256": {"config.json": "0" * 64},
    "version": "9.9.9",
    "minReplicas": 1,
    "maxReplicas": 9,
    "gracePeriodSeconds": 999,
    "timeout": "5s",
    "keys": ["example.com/rack"],
    "kvStores": {"min": 9500, "max": 9510},
    **{name: [{"name": "added"}] for name in ("imagePullSecrets", "resourceClaims", "envFrom", "parentRefs")},
    **{name: [{"name": "added", "key": "added"}] for name in ("tolerations", "initContainers", "sidecars")},
    **{name: [{"name": "added"}] for name in ("extraVolumes", "extraVolumeMounts", "subjects", "extra", "clients")},
    "topologySpreadConstraints": [{"topologyKey": "added"}],
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "added"}}],
}


@pytest.mark.parametrize("top", sorted(set(generator.defaults()) - set(TAIL)))
def test_every_value_changes_something(top: str) -> None:
    """No dead knob: another value gives another render, or is refused by name."""
    for path, default in leaves(generator.defaults()[top], (top,)):
        known = [value.path for value in generator.documented()]
        path = next(path[:depth] for depth in range(len(path), 0, -1) if path[:depth] in known)
        default = generator.at(generator.defaults(), path)
        dotted = ".".join(path)
        base = next(
            (ON[name] for name in sorted(ON, key=len, reverse=True) if f"{dotted}.".startswith(f"{name}.")), SETS["cpu"]
        )
        now = generator.at(merged(generator.defaults(), base), path)
        try:
            after = render(merged(base, nested(dotted, changed(now, path)))).files
        except helm_python.HelmError as error:
            assert path[-1] in str(error) or path[-2] in str(error), dotted
            continue
        assert after != render(base).files, f"{dotted} = {default!r}: no template uses it"


def test_a_role_takes_over_what_it_does_not_say() -> None:
    """Also where the role says false, 0 or nothing."""
    values = {
        "roleDefaults": {"pdb": {"enabled": True}, "shmSize": "7Gi", "drain": {"marginSeconds": 33}},
        "roles": {
            "decode": {"replicas": 2, "pdb": {"enabled": False}, "drain": {"seconds": 0}},
            "prefill": {"replicas": 2},
        },
    }
    made = render(values)
    assert {budget["metadata"]["name"] for budget in made.of("PodDisruptionBudget")} == {
        "demo-triptych-frontdoor",
        "demo-triptych-prefill",
    }
    for group in made.workers:
        (shm,) = (volume for volume in group.pod["volumes"] if volume["name"] == "shm")
        assert shm["emptyDir"]["sizeLimit"] == "7Gi"
    assert {group.name: group.pod["terminationGracePeriodSeconds"] for group in made.workers} == {
        "frontdoor": 10 + 45 + 33,
        "prefill": 60 + 33,
        "decode": 33,
    }


def test_roles_are_those_of_the_templates() -> None:
    assert tuple(generator.defaults()["roles"]) == ROLES


def test_every_helper_is_used() -> None:
    sources = "".join(file.read_text(encoding="utf-8") for file in (CHART / "templates").rglob("*.*"))
    for name in re.findall(r'define "([\w.]+)"', sources):
        assert f'include "{name}"' in sources, name


def test_value_sets_begin_with_what_they_show() -> None:
    for file in generator.value_sets():
        assert file.read_text(encoding="utf-8").startswith("# "), file.name
        yaml.safe_load(file.read_text(encoding="utf-8"))


def test_the_version_of_the_program_is_the_charts() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert metadata["appVersion"] == project["project"]["version"]


def objects_with(made: Render, word: str) -> list[str]:
    """Names of objects that mention a word."""
    return [name for name, found in made.objects.items() if word in json.dumps(found)]


def test_one_name_is_changed_everywhere() -> None:
    made = render({"fullnameOverride": "other"})
    assert objects_with(made, "demo-triptych") == []
