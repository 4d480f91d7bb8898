"""Dashboards and alerts: as written, and naming only metrics, labels and buckets that the program exports."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.utils import floatToGoString

from services.core.slo import Slo
from services.telemetry import metrics
from services.telemetry.alerts import BURNS, RUNBOOKS, Objective, rules
from services.telemetry.dashboards import dashboards
from services.telemetry.metrics import METRICS, Kind

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
SUFFIXES = {Kind.HISTOGRAM: ("_bucket", "_sum", "_count"), Kind.COUNTER: ("",), Kind.GAUGE: ("",)}
EXPORTED = {metric.name + suffix: metric for metric in METRICS for suffix in SUFFIXES[metric.kind]}
ALERTS = yaml.safe_load((DEPLOY / "alerts.yaml").read_text(encoding="utf-8"))
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
BOARDS = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(DEPLOY.glob("dashboards/*.json"))}


def generated() -> dict[str, str]:
    """What deploy/generate.py writes."""
    spec = importlib.util.spec_from_file_location("generate_deploy", DEPLOY / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files: dict[str, str] = module.files(Objective())
    return files


def queries() -> list[tuple[str, str]]:
    """(where, PromQL) of every panel and rule."""
    found = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in RULES]
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            found += [(f"{name}: {panel['title']}", target["expr"]) for target in panel.get("targets", ())]
    return found


def problems(query: str) -> list[str]:
    """What is wrong with a query: it does not parse, or names what is not exported."""
    try:
        tree = promql_parser.parse(query.replace("$__rate_interval", "1m"))
    except ValueError as error:
        return [f"it is no PromQL: {error}"]
    found: list[str] = []
    look(tree, found)
    return found


def look(node: Any, found: list[str]) -> set[str]:
    """Collects what is wrong below a node; returns the labels that its series may have."""
    match type(node).__name__:
        case "VectorSelector":
            return selected(node, found)
        case "MatrixSelector":
            return selected(node.vector_selector, found)
        case "AggregateExpr":
            inside = look(node.expr, found)
            kept = set() if node.modifier is None else set(node.modifier.labels)
            found += [f"it groups by {label}, which is not there" for label in sorted(kept - inside)]
            return kept
        case "BinaryExpr":
            left, right = look(node.lhs, found), look(node.rhs, found)
            return left or right
        case "Call":
            inside = [look(each, found) for each in node.args]
            return inside[-1] - {"le"} if node.func.name == "histogram_quantile" else set().union(*inside)
        case "ParenExpr" | "UnaryExpr":
            return look(node.expr, found)
        case "NumberLiteral" | "StringLiteral":
            return set()
    raise AssertionError(f"not looked into: {type(node).__name__}")


def selected(node: Any, found: list[str]) -> set[str]:
    """The same for one selector."""
    if node.name in RECORDED:
        return set()
    metric = EXPORTED.get(node.name)
    if metric is None:
        found.append(f"{node.name} is not exported")
        return set()
    labels = {*metric.labels} | ({"le"} if node.name.endswith("_bucket") else set())
    bounds = [floatToGoString(bound) for bound in (*metric.buckets, float("inf"))]
    for matcher in node.matchers.matchers:
        if matcher.name not in labels:
            found.append(f"{node.name} has no label {matcher.name}")
        if matcher.name == "le" and matcher.value not in bounds:
            found.append(f"{node.name} has no bucket {matcher.value}")
    return labels


def test_the_files_are_what_the_generator_writes() -> None:
    files = generated()
    assert {f"dashboards/{name}" for name in BOARDS} | {"alerts.yaml"} == set(files)
    for name, text in files.items():
        assert (DEPLOY / name).read_text(encoding="utf-8") == text, f"deploy/{name} is stale: run `make docs`"


@pytest.mark.parametrize(("where", "query"), queries(), ids=lambda value: value if len(value) < 60 else "")
def test_queries_name_only_what_is_exported(where: str, query: str) -> None:
    assert problems(query) == [], where


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("sum(rate(triptych_nothing_total[5m]))", "triptych_nothing_total is not exported"),
        ("triptych_kv_blocks{pool='x'}", "triptych_kv_blocks has no label pool"),
        ("sum by (pool) (triptych_kv_blocks)", "it groups by pool, which is not there"),
        ('triptych_time_to_first_token_seconds_bucket{le="0.3"}', "no bucket 0.3"),
        ("sum(rate(triptych_calls_total[5m])", "it is no PromQL"),
        ("triptych_time_to_first_token_seconds", "is not exported"),
        ("histogram_quantile(0.9, sum by (worker) (rate(triptych_event_loop_lag_seconds_bucket[5m])))", "worker"),
    ],
)
def test_what_is_not_exported_is_found(query: str, problem: str) -> None:
    assert any(problem in found for found in problems(query)), problems(query)


def test_every_metric_is_on_a_dashboard() -> None:
    shown = " ".join(target for _, target in queries())
    hidden = {metrics.BUILD, metrics.REQUEST_PROMPT_TOKENS, metrics.REQUEST_GENERATION_TOKENS, metrics.INFERENCE_TIME}
    hidden |= {metrics.TPOT, metrics.DRAINING}
    assert [metric.name for metric in METRICS if metric not in hidden and metric.name not in shown] == []


def test_panels_have_places_of_their_own() -> None:
    for name, board in BOARDS.items():
        cells = [
            (x, y)
            for panel in board["panels"]
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
        ]
        assert len(cells) == len(set(cells)), name
        assert max(x for x, _ in cells) < 24
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_every_alert_has_a_section_in_the_runbooks_and_each_section_an_alert() -> None:
    text = (ROOT / RUNBOOKS).read_text(encoding="utf-8")
    sections = re.findall(r"^## (\w+)$", text, re.MULTILINE)
    alerts = [rule for rule in RULES if "alert" in rule]
    assert sorted(sections) == sorted(rule["alert"] for rule in alerts)
    for rule in alerts:
        assert rule["annotations"]["runbook"] == f"{RUNBOOKS}#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")
        body = text.split(f"## {rule['alert']}\n")[1].split("\n## ")[0]
        assert all(f"**{part}**" in body for part in ("Means", "Look", "Do")), rule["alert"]
    named = set(re.findall(r"`(triptych_[a-z_]+)`", text))
    assert named <= EXPORTED.keys() | {metric.name for metric in METRICS}


def test_another_objective_changes_bounds_and_budgets_and_nothing_else() -> None:
    assert rules(Objective())["groups"] == ALERTS["groups"]
    strict = rules(Objective(Slo(250.0, 25.0), 0.99, 0.9999))
    text = json.dumps(strict)
    assert 'le=\\"0.25\\"' in text
    assert 'le=\\"0.025\\"' in text
    burn = strict["groups"][1]["rules"][0]["expr"]
    assert re.findall(r"> ([0-9.]+)", burn) == ["0.144", "0.144", "0.06", "0.06"]
    assert all(window in burn for _, *both, severity in BURNS if severity == "page" for window in both)
    with pytest.raises(AssertionError, match="buckets"):
        rules(Objective(Slo(333.0, 25.0)))
    assert set(dashboards(Objective(Slo(250.0, 25.0)))) == set(BOARDS)
