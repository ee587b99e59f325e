"""Prometheus' rules and Grafana's dashboard: every metric in them is one that a real server shows, and each alert has
its section in the runbook."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import generate_latest

from entrypoints.placement_metrics import CountedLedger, control_registry
from tests.entrypoints.test_server import WITHIN_SECONDS, server
from tests.fakes.ledger import FakeLedger

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONFIG = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
ALERTS = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana" / "stoker.json").read_text())


def queries() -> Iterator[tuple[str, str]]:
    """Every expression, with the alert or panel that it is of."""
    for rule in ALERTS:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        yield variable["name"], variable["definition"]


def metrics_in(expression: str) -> set[str]:
    """The names of our metrics in an expression: outside of quotes, and no labels."""
    return set(re.findall(r"\bstoker_\w+", re.sub(r'"[^"]*"', "", expression)))


def metrics_of(text: str) -> set[str]:
    """The names of the series that an output of /metrics may have, those of its metrics without a series too."""
    found = set()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE):
        found |= {f"{name}_bucket", f"{name}_count", f"{name}_sum"} if kind == "histogram" else {name}
    return found


@pytest.mark.anyio
async def test_every_metric_is_one_that_a_server_shows(tmp_path: Path) -> None:
    async with (
        server(tmp_path) as running,
        httpx.AsyncClient(trust_env=False, timeout=WITHIN_SECONDS) as client,
    ):
        shown = metrics_of((await client.get(f"{running.url}/metrics")).raise_for_status().text)
    assert {"stoker_requests_total", "stoker_time_to_first_token_seconds_bucket"} <= shown
    registry = control_registry()
    CountedLedger(FakeLedger(), registry)
    shown |= metrics_of(generate_latest(registry).decode())
    lost = {name for name in shown if name.endswith("_lost_total")}
    assert len(lost) >= 2
    assert lost <= set().union(*(metrics_in(rule["expr"]) for rule in ALERTS)), "whoever lost something is told"
    unknown = {of: names for of, query in queries() if (names := metrics_in(query) - shown)}
    assert unknown == {}


def test_what_is_shown_is_watched_or_drawn() -> None:
    used = set().union(*(metrics_in(query) for _, query in queries()))
    assert len(used) > 20
    assert all(metrics_in(query) or query.startswith("up{") for _, query in queries()), "none is without a metric"


def test_each_alert_says_what_is_wrong_and_where_to_read_on() -> None:
    headings = set(re.findall(r"^#+ .*?`(\w+)`", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE))
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names)
    assert set(names) <= headings


def test_the_server_is_scraped_with_its_own_labels() -> None:
    job, control_plane = CONFIG["scrape_configs"]
    assert control_plane["job_name"] == "stoker-control-plane"
    environment = COMPOSE["services"]["control-plane"]["environment"]
    port = environment["STOKER_CONTROL_PLANE__METRICS_PORT"]
    assert control_plane["static_configs"] == [{"targets": [f"control-plane:{port}"]}]
    assert job["job_name"] == "stoker", "the alert on `up` names it"
    assert job["honor_labels"] is True, "our label `instance` is an instance's, not the API's address"
    assert CONFIG["rule_files"] == ["alerts.yml"]


def test_the_dashboard_asks_the_source_that_is_provisioned() -> None:
    provisioned = yaml.safe_load((DEPLOY / "grafana" / "datasources.yml").read_text())["datasources"]
    uids = {source["uid"] for source in provisioned}
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if panel["type"] != "row"} == uids
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [tuple(panel["gridPos"][side] for side in ("x", "y")) for panel in panels]
    assert len(set(places)) == len(places), "no panel lies on another"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed here")
def test_prometheus_takes_its_files_and_the_alerts_fire() -> None:
    for arguments in (
        ["check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")],
        ["test", "rules", str(Path(__file__).parent / "alerts_test.yml")],
    ):
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
