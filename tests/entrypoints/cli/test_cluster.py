"""`stoker workers`."""

import json
import re

import pytest

from stoker.domain.absence import Absence
from stoker.domain.claims import Claim
from stoker.domain.statuses import WorkerStatus
from stoker.domain.units import GIB
from stoker.domain.workers import DeviceKind, WorkerState
from tests.builders import make_device, make_worker
from tests.entrypoints.cli.conftest import Stoker
from tests.fakes.api import CREATED_AT, FakeApi, make_instance


@pytest.fixture
def workers(api: FakeApi) -> None:
    """One worker with a GPU in use, one that is cordoned and has no engine."""
    claim = Claim(instance_id="llama-a1b2c", incarnation=1, worker="box-1", device="gpu0", size=6 * GIB)
    gpu = make_device(used=7 * GIB, reserve=GIB, name="RTX 4090", compute_capability="8.9")
    cpu = make_device(kind=DeviceKind.CPU)
    first = make_worker(
        name="box-1",
        labels={"zone": "lab", "disk": "ssd"},
        devices=(gpu, cpu),
        serves_rpc=True,
        holds=("hf:org/repo@abc/model.gguf",),
    )
    second = make_worker(name="box-2", devices=(cpu,), engine=None, state=WorkerState.CORDONED)
    api.workers = [
        WorkerStatus(worker=first, claims=(claim,), joined_at=CREATED_AT, seen_at=CREATED_AT),
        WorkerStatus(worker=second, joined_at=CREATED_AT, seen_at=CREATED_AT),
    ]


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("arguments", [("workers",), ("workers", "ls"), ("workers", "-o", "table")])
def test_workers(arguments: tuple[str, ...], stoker: Stoker) -> None:
    assert [line.rstrip() for line in stoker(*arguments).stdout.splitlines()] == [
        "NAME   STATE     SEEN  ENGINE         DEVICES (FREE / TOTAL)",
        "box-1  ready     3d    native b11434  gpu0 16 GiB / 24 GiB",
        "                                      cpu 64 GiB / 64 GiB",
        "box-2  cordoned  3d    none           cpu 64 GiB / 64 GiB",
    ]


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("arguments", [("workers", "-o", "json"), ("workers", "ls", "-o", "json")])
def test_workers_as_data(arguments: tuple[str, ...], stoker: Stoker) -> None:
    assert [worker["name"] for worker in json.loads(stoker(*arguments).stdout)] == ["box-1", "box-2"]


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("output", ["table", "json"])
def test_an_alarm_comes_first_and_not_into_what_scripts_read(api: FakeApi, stoker: Stoker, output: str) -> None:
    quiet = stoker("workers", "-o", output)
    api.absence = Absence(held_back=("box-1", "box-2"), alarm="2 of 3 workers are silent at once: nothing is moved")
    shown = stoker("workers", "-o", output)
    assert (shown.exit_code, shown.stdout, quiet.stderr) == (0, quiet.stdout, "")
    assert shown.stderr.splitlines() == [
        "ALARM workers_silent_at_once: 2 of 3 workers are silent at once: nothing is moved",
        "  not moved: what runs on box-1, box-2",
    ]


@pytest.mark.usefixtures("workers")
def test_a_worker_with_what_runs_there(api: FakeApi, stoker: Stoker) -> None:
    api.add(make_instance())
    shown = stoker("workers", "describe", "box-1").stdout.splitlines()
    assert "Labels   disk=ssd, zone=lab" in shown
    assert "RPC      lends its devices to other workers" in shown
    assert "Holds    hf:org/repo@abc/model.gguf" in shown
    assert shown[-6:] == [
        "DEVICE  KIND  TOTAL   RESERVED  CLAIMED  IN USE  FREE    NAME",
        "gpu0    cuda  24 GiB  1 GiB     6 GiB    7 GiB   16 GiB  RTX 4090, compute 8.9",
        "cpu     cpu   64 GiB  0 B       0 B      0 B     64 GiB  CPU",
        "",
        "INSTANCE     CLAIMED  STATE",
        "llama-a1b2c  6 GiB    running for 3d: answers on box-1",
    ]
    assert "llama" not in stoker("workers", "describe", "box-2").stdout


def test_a_worker_that_is_not_there(stoker: Stoker) -> None:
    done = stoker("workers", "describe", "nix")
    assert (done.exit_code, done.stderr) == (3, "error: there is no worker 'nix'\nhint: see `stoker workers`\n")


def test_the_help_of_a_group_is_its_own(stoker: Stoker) -> None:
    assert re.search(r"describe +Show a worker", stoker("workers", "--help").stdout)
