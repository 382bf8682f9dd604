"""Prometheus finds the server, Grafana finds Prometheus, and every curve is of a metric that a real Triton has."""

import json
import re
from functools import cache
from http.client import HTTPConnection
from typing import Any

import pytest
import yaml

from chextriev.serving.environment import server_environment
from tests.docker.production import DOCKER, Production

MONITORING = DOCKER / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboards" / "chextriev.json").read_text())
OTHER_WORDS = {"sum", "by", "rate", "increase", "label_values", "model", "reason", "quantile", "job"}
GPU_METRICS = {"nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes"}
"""Not shown where there is no GPU."""


def expressions() -> list[str]:
    queries = [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"]]
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]] + queries


def metrics_of(expression: str) -> set[str]:
    """Names of metrics in an expression: what is left without labels' values, ranges and functions."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', "", expression)
    return set(re.findall(r"[a-z_][a-z0-9_]*", bare)) - OTHER_WORDS


def labels_of(expression: str) -> set[str]:
    return set(re.findall(r'(\w+)=~?"', expression)) | {
        label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")
    }


@pytest.fixture(scope="module")
def exposed(production: Production) -> str:
    """The text of /metrics of a running server."""
    connection = HTTPConnection("127.0.0.1", production.ports[2], timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


@cache
def datasource() -> dict[str, Any]:
    (source,) = yaml.safe_load((MONITORING / "datasources.yaml").read_text())["datasources"]
    return dict(source)


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_every_metric_is_one_of_a_running_server(exposed: str, expression: str) -> None:
    names = metrics_of(expression)
    assert names
    for name in names - GPU_METRICS - {"up"}:
        lines = [line for line in exposed.splitlines() if re.match(rf"{name}[{{ ]", line)]
        assert lines, name
        assert labels_of(expression) <= set(re.findall(r'(\w+)="', " ".join(lines))) | {"job"}


def test_metrics_of_a_gpu_are_known_to_the_server() -> None:
    (library,) = server_environment().tritonserver.parents[3].glob("nvidia_pytriton.libs/libtritonserver-*.so")
    content = library.read_bytes()
    assert {name for expression in expressions() for name in metrics_of(expression)} >= GPU_METRICS
    for name in GPU_METRICS:
        assert name[:16].encode() in content  # a compiler keeps longer strings in pieces


def test_a_dangling_metric_would_be_noticed(exposed: str) -> None:
    assert metrics_of('sum by (model) (rate(nv_no_such_thing{model=~"$model"}[$__rate_interval])) / 1000') == {
        "nv_no_such_thing"
    }
    assert "nv_no_such_thing" not in exposed


def test_reasons_and_quantiles_that_are_shown_exist(exposed: str) -> None:
    shown = {value for expression in expressions() for value in re.findall(r'quantile="([^"]+)"', expression)}
    assert shown == {"0.5", "0.95", "0.99"}
    assert shown <= set(re.findall(r'quantile="([^"]+)"', exposed))
    (panel,) = (panel for panel in DASHBOARD["panels"] if panel["title"] == "Requests failed, by reason")
    assert set(re.findall(r"([A-Z]{5,}):", panel["description"])) <= set(re.findall(r'reason="([^"]+)"', exposed))


def test_every_panel_asks_the_provisioned_source() -> None:
    assert datasource()["type"] == "prometheus"
    asked = [DASHBOARD["templating"]["list"][0], *DASHBOARD["panels"]]
    asked += [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert {item["datasource"]["uid"] for item in asked} == {datasource()["uid"]}


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_parts_find_each_other() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    (job,) = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())["scrape_configs"]
    host, port = job["static_configs"][0]["targets"][0].split(":")
    assert host in compose["server-cpu"]["networks"]["inside"]["aliases"]
    assert f"--metrics-port={port}" in (DOCKER / "entrypoint.py").read_text()
    assert f'job="{job["job_name"]}"' in " ".join(expressions())
    assert datasource()["url"] == "http://prometheus:9090"
    mounts = {volume.split(":")[1] for volume in compose["grafana"]["volumes"]}
    (provider,) = yaml.safe_load((MONITORING / "dashboards.yaml").read_text())["providers"]
    assert provider["options"]["path"] in mounts
    home = compose["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/chextriev.json"
    config = next(word for word in compose["prometheus"]["command"] if word.startswith("--config.file="))
    assert config.partition("=")[2] in {volume.split(":")[1] for volume in compose["prometheus"]["volumes"]}
