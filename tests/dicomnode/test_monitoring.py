"""Rules, dashboard and documentation speak of metrics that the node has, and promtool agrees."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics_core import Metric

from dicomnode.observe.figures import Queue
from dicomnode.observe.metrics import NodeCollector
from dicomnode.observe.troubles import Kind
from dicomnode.records.audit import Event
from dicomnode.records.db import Database
from dicomnode.records.states import BreakerState, DeliveryState, JobState, StudyState
from dicomnode.settings.node import Settings
from tests.real_parts import require_program

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
KUBERNETES = ROOT / "deploy" / "kubernetes"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "node.json"
KNOWN_LABEL_VALUES = {
    "state": {state.value for kind in (StudyState, JobState, DeliveryState, BreakerState) for state in kind},
    "event": {event.value for event in Event},
    "queue": {queue.value for queue in Queue},
    "kind": {kind.value for kind in Kind},
}


@pytest.fixture
def families(settings: Settings, database: Database) -> list[Metric]:
    return list(NodeCollector(settings, database, "").collect())


def sample_names(families: list[Metric]) -> set[str]:
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "info": ["_info"]}
    return {family.name + ending for family in families for ending in endings.get(family.type, [""])}


def promtool(*arguments: str) -> None:
    checked = subprocess.run(
        [require_program("promtool"), *arguments], cwd=MONITORING, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def expressions() -> list[str]:
    """Every PromQL expression that we ship."""
    rules = re.findall(r"expr: (.*)", (MONITORING / "rules.yml").read_text())
    return rules + [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


def test_rules_and_dashboard_ask_only_for_metrics_that_exist(families: list[Metric]) -> None:
    asked = {name for text in expressions() for name in re.findall(r"\bdicomnode_[a-z_]+", text)}
    assert len(asked) > 15
    assert asked <= sample_names(families)


def test_rules_and_dashboard_ask_only_for_label_values_that_exist() -> None:
    asked = {
        (label, value)
        for text in expressions()
        for label, values in re.findall(r'\b(state|event|queue|kind)(?:=~|!=|=)"([^"]*)"', text)
        for value in values.split("|")
    }
    assert len(asked) > 10
    assert {pair for pair in asked if pair[1] not in KNOWN_LABEL_VALUES[pair[0]]} == set()


def test_the_documentation_lists_exactly_the_metrics(families: list[Metric]) -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `(dicomnode_[a-z_]+)` \|", text, re.M))
    endings = {"counter": "_total", "info": "_info"}
    assert listed == {family.name + endings.get(family.type, "") for family in families}
    told = text.split("## Alerts")[1]
    assert set(re.findall(r"^\| `([a-z_]+)` \|", told, re.M)) == {kind.value for kind in Kind}


def test_the_panels_of_the_dashboard_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@pytest.mark.real_parts
@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml"),
     ("check", "config", "prometheus.yml")],
)  # fmt: skip
def test_promtool_agrees_with_what_is_shipped(arguments: tuple[str, ...]) -> None:
    promtool(*arguments)


@pytest.mark.real_parts
def test_promtool_understands_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": text.replace("$node", ".*")}
        for number, text in enumerate(expressions())
    ]
    path = tmp_path / "panels.json"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", str(path))


@pytest.mark.real_parts
def test_the_metric_of_the_autoscaler_is_the_age_of_the_oldest_job_of_all_web_pages(tmp_path: Path) -> None:
    """The adapter itself is not here: its template is filled in as it does for the autoscaler's selector."""
    (rule,) = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["external"]
    matchers = f'queue="{Queue.QUEUED_JOBS}"'
    asked = rule["metricsQuery"].replace("<<.LabelMatchers>>", matchers)
    series = [
        {"series": f"{rule['seriesQuery']}{{{labels}}}", "values": value}
        for labels, value in (
            (f'instance="one",{matchers}', "70"),
            (f'instance="two",{matchers}', "75"),
            (f'instance="one",queue="{Queue.WAITING_DELIVERIES}"', "900"),
        )
    ]
    sample = {"labels": f"{{{matchers}}}", "value": 75}
    expected = {"expr": asked, "eval_time": "0s", "exp_samples": [sample]}
    path = tmp_path / "adapter.json"
    path.write_text(json.dumps({"tests": [{"input_series": series, "promql_expr_test": [expected]}]}))
    promtool("test", "rules", str(path))
