"""`stoker top`: the cluster on one screen, and what each model answers a second."""

import json

import pytest

from api.schemas.workers import DeviceRead
from entrypoints.cli.rates import Counts, Look, Rate, rates, read_counts
from entrypoints.cli.views.overview import memory_bar
from stoker.domain.claims import Claim
from stoker.domain.deployments import InstanceState
from stoker.domain.statuses import WorkerStatus
from stoker.domain.units import GIB
from stoker.domain.workers import DeviceKind, WorkerState
from tests.builders import make_device, make_worker
from tests.entrypoints.cli.conftest import Stoker
from tests.fakes.api import CREATED_AT, FakeApi, make_instance

METRICS = """\
# HELP stoker_requests_total Requests answered.
# TYPE stoker_requests_total counter
stoker_requests_total{model="llama",status_class="2xx"} 10.0
stoker_requests_total{model="llama",status_class="5xx"} 2.0
stoker_requests_total{model="",status_class="4xx"} 7.0
# HELP stoker_requests_running Requests now worked on.
# TYPE stoker_requests_running gauge
stoker_requests_running{model="llama"} 3.0
# HELP stoker_requests_queued Requests that wait for a free slot.
# TYPE stoker_requests_queued gauge
stoker_requests_queued{model="llama"} 1.0
# HELP stoker_tokens_total Tokens read (in) and written (out).
# TYPE stoker_tokens_total counter
stoker_tokens_total{model="llama",direction="in"} 100.0
stoker_tokens_total{model="llama",direction="out"} 50.0
"""
LATER = METRICS.replace("10.0", "30.0").replace("50.0", "250.0")


def test_counts_are_read_from_metrics() -> None:
    assert read_counts(METRICS, 5.0) == Look(5.0, {"llama": Counts(12.0, 100.0, 50.0, 3.0, 1.0)})
    assert read_counts("", 5.0) == Look(5.0)
    with pytest.raises(ValueError, match=r"\S"):
        read_counts('stoker_requests_total{model="x" 1', 5.0)


def test_rates_are_per_second() -> None:
    assert rates(read_counts(METRICS, 10.0), read_counts(LATER, 14.0)) == {"llama": Rate(5.0, 0.0, 50.0, 3, 1)}
    assert rates(Look(10.0), read_counts(METRICS, 14.0))["llama"].requests == 3.0


def test_a_server_that_was_started_anew_counts_from_0() -> None:
    before, now = Look(0.0, {"llama": Counts(requests=1000.0)}), Look(2.0, {"llama": Counts(requests=8.0)})
    assert rates(before, now)["llama"].requests == 4.0


@pytest.mark.parametrize(
    ("claimed", "used", "reserve", "bar"),
    [
        (0, 0, 0, "░░░░░░░░"),
        (4, 4, 0, "████░░░░"),
        (4, 6, 1, "████▓▓▒░"),
        (8, 2, 0, "████████"),
        (8, 8, 8, "████████"),
        (0.01, 0, 0.01, "█▒░░░░░░"),
    ],
)
def test_a_memory_bar_never_hides_nor_overflows(claimed: float, used: float, reserve: float, bar: str) -> None:
    sizes = {"claimed_bytes": claimed, "used_bytes": used, "reserve_bytes": reserve, "total_bytes": 8}
    device = DeviceRead(
        id="gpu0",
        kind=DeviceKind.CUDA,
        name="",
        compute_capability="",
        unified=False,
        allocatable_bytes=0,
        **{name: int(size * GIB) for name, size in sizes.items()},
    )
    assert memory_bar(device, 8) == bar


@pytest.fixture
def cluster(api: FakeApi) -> FakeApi:
    claim = Claim(instance_id="llama-a1b2c", incarnation=1, worker="box-1", device="gpu0", size=6 * GIB)
    first = make_worker(name="box-1", devices=(make_device(used=7 * GIB, reserve=GIB),))
    second = make_worker(name="box-2", devices=(make_device(kind=DeviceKind.CPU),), state=WorkerState.UNREACHABLE)
    api.workers = [
        WorkerStatus(worker=first, claims=(claim,), joined_at=CREATED_AT, seen_at=CREATED_AT),
        WorkerStatus(worker=second, joined_at=CREATED_AT, seen_at=CREATED_AT),
    ]
    api.add(make_instance(), name="llama")
    api.add(make_instance(InstanceState.PENDING, instance_id="big-0", deployment="big"), name="big")
    api.metrics = [METRICS, LATER]
    return api


@pytest.mark.usefixtures("cluster")
def test_once(stoker: Stoker) -> None:
    done = stoker("top", "--once", "--interval", "0.1")
    assert done.exit_code == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0].startswith("1 of 2 workers ready 1 of 2 deployments running ")
    assert lines[0].endswith("3 requests under way 1 queued")
    assert "box-1 ready gpu0 ██████▓▒░░░░░░░░░░░░░░░░ 6 GiB 7 GiB 16 GiB 24 GiB" in lines
    assert any(line.startswith("box-2 unreachable cpu ") for line in lines)
    assert any(line.startswith("big pending 0/1 0.0 0 0 0 0") for line in lines)
    assert "llama-a1b2c running 3d box-1: gpu0 (33 layers, 6 GiB)" in lines
    assert any(line.startswith("big-0 pending 3d Needs 6 GiB; the nearest device") for line in lines)


@pytest.mark.usefixtures("cluster")
def test_as_data(stoker: Stoker) -> None:
    told = json.loads(stoker("top", "-o", "json", "--interval", "0.1").stdout)
    assert [worker["name"] for worker in told["workers"]] == ["box-1", "box-2"]
    assert [deployment["name"] for deployment in told["deployments"]] == ["big", "llama"]
    assert told["rates"]["llama"]["tokens_out"] > told["rates"]["llama"]["tokens_in"] == 0.0


def test_an_empty_cluster_that_tells_no_metrics(api: FakeApi, stoker: Stoker) -> None:
    api.metrics = ["<html>no metrics</html>"]
    done = stoker("top", "--once", "--interval", "0.1")
    assert done.exit_code == 0, done.stderr
    assert "0 of 0 workers ready   0 of 0 deployments running   0.0 requests/s" in done.stdout
