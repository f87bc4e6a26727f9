"""docker/compose.yaml, what Prometheus scrapes and warns of, and what Grafana shows: by the tools that will read them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from deploy import render
from model_configs import ROOT

DOCKER = ROOT / "docker"
COMPOSE = str(Path(sys.executable).with_name("docker-compose"))
DASHBOARD = json.loads((DOCKER / "grafana" / "dashboards" / "servekit.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = yaml.safe_load((DOCKER / "prometheus" / "alerts.yaml").read_text())["groups"][0]["rules"]
EXPRESSIONS = {
    **{f"{panel['title']} {n}": t["expr"] for panel in PANELS for n, t in enumerate(panel["targets"])},
    **{rule["alert"]: rule["expr"] for rule in RULES},
}
VARIABLES = {"$__rate_interval": "1m", "$model": ".*"}
OF_PROMETHEUS = {"instance", "job", "le"}


def exported() -> dict[str, set[str]]:
    """Every series that a server of the kit exports, with its labels."""
    series = {"up": set[str]()}
    document = yaml.safe_load(render.metrics_yaml())
    for kind, metrics in [*document["ts_metrics"].items(), *document["model_metrics"].items()]:
        for metric in metrics:
            for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
                series[metric["name"] + suffix] = set(metric["dimensions"])
    return series


def selectors(node: Any) -> Iterator[Any]:
    """The vector selectors of a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "args", "param"):
        inner = getattr(node, name, None)
        for each in inner if isinstance(inner, list) else [inner]:
            if each is not None:
                yield from selectors(each)


def plain(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS.keys())
def test_every_expression_is_of_what_the_kit_exports(expression: str) -> None:
    known, found = exported(), list(selectors(promql_parser.parse(plain(expression))))
    assert found
    for selector in found:
        assert selector.name in known
        assert {m.name for m in selector.matchers.matchers} <= known[selector.name] | OF_PROMETHEUS
    grouped = str(promql_parser.parse(plain(expression)).prettify())
    labels = {label.strip() for part in grouped.split("by (")[1:] for label in part.split(")")[0].split(",")}
    assert labels <= OF_PROMETHEUS.union(*(known[selector.name] for selector in found))


def test_a_wrong_name_would_be_seen() -> None:
    (selector,) = selectors(promql_parser.parse("sum(rate(servekit_request_second_bucket[5m]))"))
    assert selector.name not in exported()


def test_the_dashboard_has_what_people_look_for() -> None:
    titles = {panel["title"] for panel in PANELS}
    assert {"Responses by code", "Queue time", "Handler, a call", "Batch fill", "Workers"} <= titles
    assert {"Time to first token", "Time per output token", "Refused, failed, cancelled"} <= titles
    p = [
        t["legendFormat"]
        for panel in PANELS
        if panel["title"].startswith("Whole request, text")
        for t in panel["targets"]
    ]
    assert [each.split()[0] for each in p] == ["p50", "p95", "p99"]


def test_panels_stand_beside_and_not_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    provisioning = DOCKER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in PANELS} == {source["uid"]}
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "servekit.yaml").read_text())["providers"]
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    mounts = dict(mount.split(":")[:2] for mount in services["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DOCKER / "grafana" / "dashboards" / Path(home).name).exists()


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    assert shutil.which("promtool"), "promtool is missing: apt-get install prometheus"
    return subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60, cwd=DOCKER
    )


def test_prometheus_reads_its_configuration_and_its_rules() -> None:
    checked = promtool("check", "config", "prometheus/prometheus.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(RULES)} rules found" in checked.stdout


def test_alerts_come_when_they_should() -> None:
    tested = promtool("test", "rules", ROOT / "tests" / "unit" / "alerts_test.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def composed(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMPOSE, "-f", "docker/compose.yaml", "--profile", "load", "config", "--format", "json"],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_compose_reads_the_file() -> None:
    read = composed(MODELS="/m")
    assert read.returncode == 0, read.stderr
    services = json.loads(read.stdout)["services"]
    assert services.keys() == {"server", "prometheus", "grafana", "locust"}
    for name, service in services.items():
        assert {port["host_ip"] for port in service["ports"]} == {"127.0.0.1"}, name
        assert service["cap_drop"] == ["ALL"]
    assert services["server"]["read_only"]
    (mount,) = services["server"]["volumes"]
    assert (mount["source"], mount["target"], mount["read_only"]) == ("/m", "/models", True)
    for name in ("prometheus", "grafana"):
        assert services[name]["image"].split(":")[1][0] in "v123456789"


def test_prometheus_scrapes_the_servers_metrics_port_and_nobody_else_does() -> None:
    services = json.loads(composed(MODELS="/m").stdout)["services"]
    port = services["server"]["environment"]["SERVEKIT_METRICS_PORT"]
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yaml").read_text())
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": [f"server:{port}"]}]
    assert [port["target"] for port in services["server"]["ports"]] == [8080]


def test_compose_asks_for_a_model_folder() -> None:
    read = composed(MODELS="")
    assert read.returncode != 0
    assert "the folder of an archive" in read.stderr
