"""`stoker doctor`, and what it sees of the cluster."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from entrypoints.checks import cluster
from entrypoints.checks.findings import Finding, Verdict
from stoker.domain.absence import Absence
from stoker.domain.deployments import InstanceState
from stoker.domain.links import WorkerLink
from stoker.domain.statuses import WorkerStatus
from stoker.domain.workers import WorkerState
from tests.builders import make_worker
from tests.entrypoints.cli.conftest import Stoker
from tests.fakes.api import CREATED_AT, FakeApi, make_group, make_instance


@pytest.fixture(autouse=True)
def _bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_WORKER__ENGINE", "bundled")


@pytest.fixture
def fleet(api: FakeApi) -> None:
    """One worker that is well, and three that are not."""
    states = {"box-1": WorkerState.READY, "box-2": WorkerState.UNREACHABLE, "box-3": WorkerState.CORDONED}
    workers = [make_worker(name=name, state=state) for name, state in states.items()]
    workers.append(make_worker(name="box-4", agent_version="0.0.1"))
    api.workers = [WorkerStatus(worker=one, joined_at=CREATED_AT, seen_at=CREATED_AT) for one in workers]


def found(stoker: Stoker, *arguments: str) -> dict[str, dict[str, str]]:
    """By check; of several of one name, the last."""
    return {each["check"]: each for each in json.loads(stoker("doctor", "-o", "json", *arguments).stdout)}


@pytest.mark.usefixtures("fleet")
def test_each_finding_says_what_to_do(api: FakeApi, stoker: Stoker) -> None:
    link = WorkerLink(
        worker="box-1", peer="box-2", round_trip_seconds=0.0002, bytes_per_second=10**9, checked_at=CREATED_AT
    )
    slow = link.model_copy(update={"peer": "box-3", "round_trip_seconds": 0.05})
    broken = link.model_copy(update={"peer": "box-4", "problem": "nobody answers at box-4"})
    api.add(make_instance(placement=make_group(), links=(link, slow, broken)), name="llama")
    api.add(make_instance(InstanceState.PENDING, instance_id="big-0", deployment="big"), name="big")
    api.add(make_instance(InstanceState.FAILED, instance_id="bad-0", deployment="bad", message="no file"), name="bad")
    api.absence = Absence(held_back=("box-2",), alarm="half of them are silent at once")
    api.checks = {"database": "ok", "control_plane": "failed: nobody takes work from its queue"}
    findings = found(stoker)
    expected = {
        "python": "ok",
        "data folder": "ok",
        "engine": "ok",
        "API": "ok",
        "clock": "ok",
        "key": "ok",
        "API's control_plane": "wrong",
        "alarm": "wrong",
        "worker box-1": "ok",
        "worker box-2": "wrong",
        "worker box-3": "warning",
        "worker box-4": "warning",
        "instance big-0": "warning",
        "instance bad-0": "wrong",
        "link box-1 to box-2": "ok",
        "link box-1 to box-3": "warning",
        "link box-1 to box-4": "wrong",
    }
    assert {check: findings[check]["verdict"] for check in expected} == expected
    for check, finding in findings.items():
        assert bool(finding["advice"]) is (finding["verdict"] != "ok"), check
    assert findings["instance big-0"]["advice"] == "see what would help: `stoker why big`"
    assert "Temporal" not in findings, "the server is not the one of this machine's settings"

    told = stoker("doctor")
    assert told.exit_code == 1
    assert "worker box-2: silent for 3d\n  start its agent, or look at its network; if it is gone" in told.stdout
    assert told.stdout.splitlines()[-1].endswith(" wrong")


def test_a_cluster_that_is_well(api: FakeApi, stoker: Stoker) -> None:
    api.workers = [WorkerStatus(worker=make_worker(), joined_at=CREATED_AT, seen_at=datetime.now(UTC))]
    api.add(make_instance(), name="llama")
    done = stoker("doctor")
    assert done.exit_code == 0, done.stdout
    assert done.stdout.splitlines()[-1].endswith(", 0 wrong")


def test_a_key_that_is_no_admins(api: FakeApi, stoker: Stoker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_API_KEY", api.user_key)
    key = found(stoker)["key"]
    assert (key["verdict"], "set STOKER_API_KEY to an admin's key" in key["advice"]) == ("wrong", True)


def test_no_server(stoker: Stoker) -> None:
    done = stoker("doctor", "--server", "http://127.0.0.1:1")
    assert done.exit_code == 1
    assert "start it with `stoker up`; or set --server or STOKER_SERVER" in done.stdout


@pytest.mark.parametrize(
    ("server_ahead", "expected"),
    [
        (0.0, (Verdict.OK, "as the server's")),
        (3.0, (Verdict.OK, "as the server's")),
        (-3.0, (Verdict.OK, "as the server's")),
        (30.0, (Verdict.WARNING, "behind the server's")),
        (-30.0, (Verdict.WARNING, "ahead of the server's")),
        (7200.0, (Verdict.WRONG, "1h behind the server's")),
    ],
)
def test_the_clock(server_ahead: float, expected: tuple[Verdict, str]) -> None:
    asked = datetime(2026, 3, 1, 12, 0, 0, 400_000, tzinfo=UTC)
    date = format_datetime(asked + timedelta(seconds=server_ahead), usegmt=True)
    (finding,) = cluster._clock(date, asked.timestamp(), asked.timestamp() + 0.2)
    assert (finding.verdict, expected[1] in finding.found) == (expected[0], True)
    assert cluster._clock(None, 0.0, 0.0) == []


def test_a_check_that_breaks_hides_no_other(stoker: Stoker, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> list[Finding]:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("entrypoints.checks.host.check_python", breaks)
    findings = found(stoker)
    assert findings["python"]["found"] == "it could not be looked at: ZeroDivisionError: oops"
    assert findings["API"]["verdict"] == "ok"
