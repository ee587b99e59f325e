"""What the control plane counts, and the page that shows it."""

import socket

import httpx
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from entrypoints.placement_metrics import CountedLedger, MetricsPortError, control_registry, metrics_page
from stoker.domain.placement.types import Placement, Unplaceable
from stoker.settings import ControlPlaneSettings
from tests.builders import make_request
from tests.e2e.system import free_ports
from tests.fakes.api import make_placement, make_unplaceable
from tests.fakes.ledger import FakeLedger


def decisions(text: str) -> dict[str, float]:
    return {
        sample.labels["outcome"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "stoker_placement_decisions_total"
    }


def test_each_decision_is_counted_by_its_outcome() -> None:
    registry = control_registry()
    answers: list[Placement | Unplaceable] = [make_placement(), make_unplaceable(), make_placement()]
    ledger = CountedLedger(FakeLedger(*answers, RuntimeError("the database is away")), registry)
    assert decisions(generate_latest(registry).decode()) == {"placed": 0, "pending": 0, "failed": 0}
    assert [ledger.place(make_request()) for _ in range(3)] == answers
    with pytest.raises(RuntimeError, match="the database is away"):
        ledger.place(make_request())
    assert decisions(generate_latest(registry).decode()) == {"placed": 2, "pending": 1, "failed": 1}


def test_the_page_shows_them_while_it_is_asked_for() -> None:
    (port,) = free_ports(1)
    registry = control_registry()
    CountedLedger(FakeLedger(make_placement()), registry).place(make_request())
    with metrics_page(ControlPlaneSettings(metrics_port=port), registry) as shown_at:
        text = httpx.get(f"http://127.0.0.1:{shown_at}/metrics", trust_env=False).raise_for_status().text
    assert decisions(text)["placed"] == 1
    assert "stoker_build_info{" in text
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False)
    with metrics_page(ControlPlaneSettings(), registry) as nowhere:
        assert nowhere == 0


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(MetricsPortError, match=f"127.0.0.1:{port}: .+ STOKER_CONTROL_PLANE__METRICS_PORT"),
            metrics_page(ControlPlaneSettings(metrics_port=port), control_registry()),
        ):
            pass
