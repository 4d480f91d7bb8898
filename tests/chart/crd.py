"""KubeRay's RayService as a closed JSON Schema, made small from its CRD.

`python -m tests.chart.crd ray.io_rayservices.yaml` writes kuberay/rayservice.schema.json from another version of the
CRD (github.com/ray-project/kuberay, ray-operator/config/crd/bases).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import yaml

SCHEMA = Path(__file__).parent / "kuberay" / "rayservice.schema.json"
KEPT = ("type", "enum", "required", "pattern", "minimum", "maximum", "maxLength", "minLength", "maxItems", "minItems")
SMALL = 60
"""Parts that are shorter than this are written out wherever they occur."""


def closed(node: dict[str, Any]) -> dict[str, Any]:
    """A schema of a CRD as JSON Schema: unknown keys are errors, texts and formats are left out."""
    made = {name: node[name] for name in KEPT if name in node}
    for name in ("anyOf", "allOf", "oneOf"):
        if name in node:
            made[name] = [closed(part) for part in node[name]]
    if node.get("nullable") and "type" in made:
        made["type"] = [made["type"], "null"]
    if "items" in node:
        made["items"] = closed(node["items"])
    if isinstance(node.get("additionalProperties"), dict):
        made["additionalProperties"] = closed(node["additionalProperties"])
    if "properties" in node:
        made["properties"] = {name: closed(part) for name, part in node["properties"].items()}
        if not node.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    return made


def parts(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas inside a schema."""
    inner = [*node.get("properties", {}).values()]
    inner += [node[name] for name in ("items", "additionalProperties") if isinstance(node.get(name), dict)]
    return inner + [part for name in ("anyOf", "allOf", "oneOf") for part in node.get(name, ())]


def shared(root: dict[str, Any]) -> dict[str, Any]:
    """The same schema with equal parts written once."""
    times: Counter[str] = Counter()

    def count(node: dict[str, Any]) -> None:
        text = json.dumps(node, sort_keys=True)
        times[text] += 1
        if times[text] == 1:
            for part in parts(node):
                count(part)

    count(root)
    names: dict[str, str] = {}
    definitions: dict[str, Any] = {}

    def write(node: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(node, sort_keys=True)
        if times[text] > 1 and len(text) > SMALL:
            if text not in names:
                names[text] = f"part{len(names)}"
                definitions[names[text]] = inside(node)
            return {"$ref": f"#/$defs/{names[text]}"}
        return inside(node)

    def inside(node: dict[str, Any]) -> dict[str, Any]:
        made = dict(node)
        if "properties" in node:
            made["properties"] = {name: write(part) for name, part in node["properties"].items()}
        for name in ("items", "additionalProperties"):
            if isinstance(node.get(name), dict):
                made[name] = write(node[name])
        for name in ("anyOf", "allOf", "oneOf"):
            if name in node:
                made[name] = [write(part) for part in node[name]]
        return made

    return {**write(root), "$defs": definitions}


def validator() -> jsonschema.Draft202012Validator:
    """Checks `spec` of a RayService."""
    return jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


def main(crd: Path) -> None:
    """Write the schema of a CRD."""
    loaded = yaml.safe_load(crd.read_text(encoding="utf-8"))
    (version,) = loaded["spec"]["versions"]
    made = shared(closed(version["schema"]["openAPIV3Schema"]["properties"]["spec"]))
    comment = "KubeRay's ray.io_rayservices.yaml, ray.io/v1: spec, closed, without texts; Apache-2.0, see LICENSE"
    text = json.dumps({"$comment": comment, **made}, separators=(",", ":"))
    SCHEMA.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
