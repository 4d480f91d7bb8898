"""Renders of the chart, each made once: by Helm's own engine, without a cluster."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "triptych"
ROLES = ("frontdoor", "encode", "prefill", "decode", "draft")


def load_generator() -> ModuleType:
    """helm/generate.py."""
    spec = importlib.util.spec_from_file_location("generate_chart", ROOT / "helm" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


generator = load_generator()
SETS: dict[str, dict[str, Any]] = {
    file.name.removesuffix("-values.yaml"): yaml.safe_load(file.read_text(encoding="utf-8"))
    for file in generator.value_sets()
}


@dataclass(frozen=True)
class Group:
    """Pods that KubeRay or Kubernetes makes of one template.

    Attributes:
        spec: of the worker group; {} for others.
        template: of its pods.
    """

    name: str
    spec: dict[str, Any]
    template: dict[str, Any]

    @property
    def labels(self) -> dict[str, str]:
        """Of the pods."""
        labels: dict[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def pod(self) -> dict[str, Any]:
        """`spec` of the pods."""
        pod: dict[str, Any] = self.template["spec"]
        return pod

    @property
    def main(self) -> dict[str, Any]:
        """The first container."""
        container: dict[str, Any] = self.pod["containers"][0]
        return container


class Render:
    """The objects of one set of values."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    @functools.cached_property
    def objects(self) -> dict[str, dict[str, Any]]:
        """Every object by file, kind and name."""
        made: dict[str, dict[str, Any]] = {}
        for file, text in self.files.items():
            if file.endswith(".yaml"):
                for found in yaml.load_all(text, yaml.CSafeLoader):
                    if found:
                        made[f"{file}:{found['kind']}/{found['metadata']['name']}"] = found
        return made

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Objects of a kind."""
        return [found for found in self.objects.values() if found["kind"] == kind]

    @property
    def cluster(self) -> dict[str, Any] | None:
        """`spec` of the RayCluster, whoever describes it."""
        for service in self.of("RayService"):
            return dict(service["spec"]["rayClusterConfig"])
        for cluster in self.of("RayCluster"):
            return {name: value for name, value in cluster["spec"].items() if name != "suspend"}
        return None

    @property
    def workers(self) -> list[Group]:
        """Worker groups."""
        groups = self.cluster["workerGroupSpecs"] if self.cluster else []
        return [Group(group["groupName"], group, group["template"]) for group in groups]

    @property
    def pods(self) -> list[Group]:
        """Everything that becomes pods."""
        found = list(self.workers)
        if self.cluster:
            found.append(Group("head", {}, self.cluster["headGroupSpec"]["template"]))
        for made in self.objects.values():
            if made["kind"] in ("Job", "Deployment"):
                found.append(Group(made["metadata"]["name"], {}, made["spec"]["template"]))
            elif made["kind"] == "Pod":
                found.append(Group(made["metadata"]["name"], {}, made))
        return found

    @property
    def config(self) -> dict[str, Any]:
        """Triptych's configuration, as the pods see it."""
        (found,) = (made for made in self.of("ConfigMap") if "config.yaml" in made["data"])
        loaded: dict[str, Any] = yaml.safe_load(found["data"]["config.yaml"])
        return loaded

    @property
    def serve(self) -> dict[str, Any]:
        """What Ray Serve is told to run."""
        for service in self.of("RayService"):
            return dict(yaml.safe_load(service["spec"]["serveConfigV2"]))
        (found,) = (made for made in self.of("ConfigMap") if "serve.yaml" in made["data"])
        return dict(yaml.safe_load(found["data"]["serve.yaml"]))


def render(values: dict[str, Any]) -> Render:
    """A render of any values."""
    return Render(chart_render(json.dumps(values, sort_keys=True)))


@functools.cache
def loaded() -> helm_python.Chart:
    """The chart, read once."""
    return helm_python.Chart.load(CHART)


@functools.lru_cache(maxsize=1024)
def chart_render(values: str) -> dict[str, str]:
    """A render by the JSON of its values."""
    made = loaded().render(json.loads(values), name="demo", namespace="serving")
    return {name.removeprefix("triptych/templates/"): text for name, text in sorted(made.items()) if text.strip()}


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Values over values, as Helm merges several files."""
    made = dict(base)
    for name, value in over.items():
        inner = made.get(name)
        made[name] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return made


def nested(path: str, value: Any) -> dict[str, Any]:
    """Values that set one key, given with dots."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return dict(value)


def leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every scalar, list and empty map of some values."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from leaves(value, (*path, name))
    else:
        yield path, node
