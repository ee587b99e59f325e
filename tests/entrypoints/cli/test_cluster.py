"""`stoker workers | keys`."""

import json

import pytest

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
    gpu, cpu = make_device(used=7 * GIB, reserve=GIB), make_device(kind=DeviceKind.CPU)
    first = make_worker(name="box-1", labels={"zone": "lab", "disk": "ssd"}, devices=(gpu, cpu))
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
def test_a_worker_with_what_runs_there(api: FakeApi, stoker: Stoker) -> None:
    api.add(make_instance())
    shown = stoker("workers", "describe", "box-1").stdout.splitlines()
    assert "Labels   disk=ssd, zone=lab" in shown
    assert shown[-6:] == [
        "DEVICE  KIND  TOTAL   RESERVED  CLAIMED  IN USE  FREE    NAME",
        "gpu0    cuda  24 GiB  1 GiB     6 GiB    7 GiB   16 GiB",
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
    assert "describe  Show a worker" in stoker("workers", "--help").stdout


def test_a_key_is_printed_alone_and_once(api: FakeApi, stoker: Stoker) -> None:
    done = stoker("keys", "create", "my app")
    assert (done.exit_code, done.stdout) == (0, "sk-stoker-000000000000-secret\n")
    assert done.stderr == "key 000000000000 (inference), shown this once:\n"
    assert "secret" not in stoker("keys").stdout + stoker("keys", "-o", "json").stdout
    assert api.bodies("POST", "/api/v1/keys") == [{"name": "my app", "role": "inference"}]


def test_a_key_as_data(stoker: Stoker) -> None:
    made = json.loads(stoker("keys", "create", "ci", "--role", "admin", "-o", "json").stdout)
    assert (made["key"], made["role"]) == ("sk-stoker-000000000000-secret", "admin")


def test_keys_are_listed_and_revoked(stoker: Stoker) -> None:
    stoker("keys", "create", "app")
    assert stoker("keys", "revoke", "000000000000").stdout == "000000000000: revoked\n"
    head, line = stoker("keys", "ls").stdout.splitlines()
    assert head == "ID            NAME  ROLE       AGE  STATE"
    assert line.startswith("000000000000  app   inference  3d   revoked ")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "error"),
    [
        (("keys", "revoke", "nix"), 3, "there is no key 'nix'"),
        (("keys", "create", ""), 2, "NAME '': String should "),
        (("keys", "create", "app", "--role", "king"), 2, "Invalid value for '--role': 'king' is not one of"),
    ],
)
def test_keys_refused(arguments: tuple[str, ...], exit_code: int, error: str, stoker: Stoker) -> None:
    done = stoker(*arguments)
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert done.stderr.startswith(f"error: {error}")
