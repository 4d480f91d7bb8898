"""What the chart gives Prometheus and Grafana: every process once, generated alerts and dashboards unchanged."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from services.telemetry.metrics import METRICS
from tests.chart.charts import ROOT, SETS, Render, render

KNOWN = {metric.name for metric in METRICS}
SUFFIXES = ("_bucket", "_sum", "_count", "_total", "_created")


@pytest.fixture(scope="module")
def made() -> Render:
    """A render with everything for monitoring."""
    return render(SETS["cpu"])


def registered(name: str) -> bool:
    """Whether a series is of a registered metric."""
    return name in KNOWN or any(name.removesuffix(suffix) in KNOWN for suffix in SUFFIXES)


def test_front_doors_are_scraped_once(made: Render) -> None:
    """By the ServiceMonitor, over the headless Service alone; the PodMonitor leaves them out."""
    (service_monitor,) = made.of("ServiceMonitor")
    selector = service_monitor["spec"]["selector"]
    chosen = [
        service["metadata"]["name"]
        for service in made.of("Service")
        if service["metadata"]["labels"].items() >= selector["matchLabels"].items()
        and all(each["key"] in service["metadata"]["labels"] for each in selector["matchExpressions"])
    ]
    assert chosen == ["demo-triptych-headless"]
    (pod_monitor,) = made.of("PodMonitor")
    (own,) = (each for each in pod_monitor["spec"]["podMetricsEndpoints"] if each["port"] == "metrics")
    (drop,) = own["relabelings"]
    assert (drop["action"], drop["regex"]) == ("drop", "frontdoor")


def test_every_port_that_is_scraped_is_there(made: Render) -> None:
    (pod_monitor,) = made.of("PodMonitor")
    for group in made.workers:
        names = {port["name"] for port in group.main["ports"]}
        assert {each["port"] for each in pod_monitor["spec"]["podMetricsEndpoints"]} <= names
        assert group.labels.items() >= pod_monitor["spec"]["selector"]["matchLabels"].items()


def test_alerts_are_those_of_deploy_and_have_a_runbook(made: Render) -> None:
    (rule,) = made.of("PrometheusRule")
    expected = yaml.safe_load((ROOT / "deploy" / "alerts.yaml").read_text(encoding="utf-8"))
    alerts = [each for group in rule["spec"]["groups"] for each in group["rules"] if "alert" in each]
    for alert in alerts:
        assert alert["labels"].pop("team") == "search"
    assert rule["spec"]["groups"] == expected["groups"]
    runbooks = (ROOT / "deploy" / "runbooks.md").read_text(encoding="utf-8")
    assert alerts
    assert all(f"## {alert['alert']}\n" in runbooks for alert in alerts)


def test_dashboards_are_those_of_deploy(made: Render) -> None:
    (found,) = (each for each in made.of("ConfigMap") if each["metadata"]["name"].endswith("-dashboards"))
    expected = {file.name: json.loads(file.read_text()) for file in (ROOT / "deploy" / "dashboards").glob("*.json")}
    assert {name: json.loads(text) for name, text in found["data"].items()} == expected
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert len(json.dumps(found)) < 2**20, "a ConfigMap holds a megabyte"


def test_alerts_and_dashboards_name_registered_metrics(made: Render) -> None:
    def expressions(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["expr"]] if isinstance(node.get("expr"), str) else []
            return own + [text for part in node.values() for text in expressions(part)]
        return [text for part in node for text in expressions(part)] if isinstance(node, list) else []

    (rule,) = made.of("PrometheusRule")
    (boards,) = (each for each in made.of("ConfigMap") if each["metadata"]["name"].endswith("-dashboards"))
    texts = expressions(rule) + [text for board in boards["data"].values() for text in expressions(json.loads(board))]
    named = {name for text in texts for name in re.findall(r"\btriptych_\w+", text)}
    assert named
    assert [name for name in sorted(named) if not registered(name)] == []
