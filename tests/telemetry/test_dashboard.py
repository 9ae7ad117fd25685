"""The dashboard and the alerts that are shipped: they ask for metrics and labels that there are, in sound PromQL."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from whylight.telemetry.listing import all_metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "whylight.json").read_text())
RULES = yaml.safe_load((DEPLOY / "prometheus" / "whylight.rules.yaml").read_text())
METRICS = {series: metric for metric in all_metrics() for series in metric.series}
TARGET = {"job", "instance"}
PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}


def panel_expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        if "expr" in annotation:
            yield annotation["name"], annotation["expr"]


def alerts() -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"]]


EXPRESSIONS = [*panel_expressions(), *((rule["alert"], rule["expr"]) for rule in alerts())]


def selectors(node: Any) -> Iterator[Any]:
    """Every series that an expression asks for, each a vector selector."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector
    elif isinstance(node, promql_parser.BinaryExpr):
        yield from selectors(node.lhs)
        yield from selectors(node.rhs)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from selectors(argument)
    elif isinstance(node, promql_parser.AggregateExpr | promql_parser.ParenExpr | promql_parser.UnaryExpr):
        yield from selectors(node.expr)
    else:
        assert isinstance(node, promql_parser.NumberLiteral | promql_parser.StringLiteral), node


@pytest.mark.parametrize(("title", "text"), EXPRESSIONS)
def test_an_expression_asks_for_what_there_is(title: str, text: str) -> None:
    parsed = promql_parser.parse(text.replace("$__rate_interval", "5m"))
    asked = list(selectors(parsed))
    assert asked or "vector" in text
    available: set[str] = set(TARGET)
    for selector in asked:
        if selector.name in PROCESS:
            continue
        assert selector.name in METRICS, f"{title}: there is no {selector.name}"
        labels = {*METRICS[selector.name].labels, *TARGET}
        labels |= {"le"} if selector.name.endswith("_bucket") else set()
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels, f"{title}: {selector.name}"
        available |= labels
    for group in re.findall(r"(?:by|on) \(([^)]*)\)", text):
        assert {label.strip() for label in group.split(",")} <= available, f"{title}: {group}"
    if "histogram_quantile" in text:
        assert all(selector.name.endswith("_bucket") for selector in asked)


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    assert DASHBOARD["schemaVersion"] >= 39
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows[1:] == ["Traffic", "Latency", "Batching", "Queues", "Errors", "Workers and models", "Long work"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)", json.dumps([panel.get("targets") for panel in DASHBOARD["panels"]])))
    assert used <= defined


def test_every_alert_says_how_bad_it_is_and_what_has_happened() -> None:
    for rule in alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
    assert len({rule["alert"] for rule in alerts()}) == len(alerts())


def test_everything_but_what_only_explains_is_on_the_dashboard() -> None:
    """A metric that nobody shows is one that nobody needs."""
    text = json.dumps(DASHBOARD)
    missing = {metric.name for metric in all_metrics() if metric.name not in text}
    assert missing == {
        "grpc_server_started_total",
        "grpc_server_msg_received_total",
        "whylight_worker_starts_total",
        "whylight_response_cache_bytes",
    }
