"""`stoker workers cordon | uncordon | drain`."""

import json
from collections.abc import Sequence

import pytest

from api.schemas.placements import WhatIfRead
from entrypoints.cli.draining import LINE_EVERY_SECONDS, DrainLines
from stoker.domain.claims import Claim
from stoker.domain.placement.what_if import Drained
from stoker.domain.statuses import WorkerStatus
from stoker.domain.units import GIB
from stoker.domain.workers import WorkerState
from tests.builders import make_worker
from tests.entrypoints.cli.conftest import Stoker
from tests.entrypoints.cli.test_simulating import MOVES
from tests.fakes.api import CREATED_AT, FakeApi

DRAIN = "/api/v1/workers/box-1/drain"
ALL_FIT = WhatIfRead.of_drain(Drained(moves=MOVES.moves[:1]))
ONE_DOES_NOT = WhatIfRead.of_drain(MOVES)


def box(*instances: str, state: WorkerState = WorkerState.DRAINING) -> WorkerStatus:
    """`box-1`, of which each of the instances holds a GiB."""
    claims = tuple(Claim(instance_id=i, incarnation=1, worker="box-1", device="gpu0", size=GIB) for i in instances)
    worker = make_worker(name="box-1", state=state)
    return WorkerStatus(worker=worker, claims=claims, joined_at=CREATED_AT, seen_at=CREATED_AT)


@pytest.fixture(autouse=True)
def worker(api: FakeApi) -> None:
    """Two instances, of which the first leaves, then the second."""
    api.workers = [box("llama-a", "qwen-b", state=WorkerState.READY)]
    api.worker_life = [box("llama-a", "qwen-b"), box("qwen-b"), box()]
    api.what_if = ALL_FIT


def calls(api: FakeApi) -> list[dict[str, str]]:
    """The drains that were asked for."""
    return [asked.query for asked in api.requests if asked.path == DRAIN]


def test_cordon_and_uncordon(api: FakeApi, stoker: Stoker) -> None:
    assert stoker("workers", "cordon", "box-1").stdout == "box-1: cordoned\n"
    assert stoker("workers", "cordon", "box-1").stdout == "box-1: cordoned\n", "again is fine"
    assert "cordoned" in stoker("workers").stdout
    assert json.loads(stoker("workers", "uncordon", "box-1", "-o", "json").stdout)["state"] == "ready"


def test_a_drain_shows_what_moves_until_the_worker_is_empty(api: FakeApi, stoker: Stoker) -> None:
    done = stoker("workers", "drain", "box-1")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "box-1: 1 instance would move, and it has a place elsewhere",
        "INSTANCE  WOULD MOVE TO",
        "llama-a   box-2: gpu0 (33 layers, 6 GiB)",
        "box-1: empty",
    ]
    assert done.stderr.splitlines() == ["llama-a has left box-1, 1 to go", "qwen-b has left box-1, 0 to go"]
    assert calls(api) == [{"dry_run": "true"}, {}]


def test_a_dry_run_changes_nothing(api: FakeApi, stoker: Stoker) -> None:
    assert "llama-a   box-2" in stoker("workers", "drain", "box-1", "--dry-run").stdout
    data = json.loads(stoker("workers", "drain", "box-1", "--dry-run", "-o", "json").stdout)
    assert data == ALL_FIT.model_dump(mode="json")
    assert calls(api) == [{"dry_run": "true"}] * 2
    assert api.worker("box-1").worker.state is WorkerState.READY


def test_what_would_stop_something_needs_yes_where_nobody_can_be_asked(api: FakeApi, stoker: Stoker) -> None:
    api.what_if = ONE_DOES_NOT
    done = stoker("workers", "drain", "box-1")
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        "error: box-1: 1 of 2 instances fits nowhere else now: it would stop, and wait for room",
        "hint: drain it all the same with --yes, or see what more machines would do: "
        "`stoker simulate --drain box-1 --add 4x24GiB`",
    ]
    assert calls(api) == [{"dry_run": "true"}]
    done = stoker("workers", "drain", "box-1", "--yes", "--no-wait")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "box-1: being drained")
    assert calls(api)[-1] == {}


def test_as_data_it_is_one_document(api: FakeApi, stoker: Stoker) -> None:
    done = stoker("workers", "drain", "box-1", "-o", "json")
    assert json.loads(done.stdout) == ALL_FIT.model_dump(mode="json")


def test_one_that_takes_too_long(api: FakeApi, stoker: Stoker) -> None:
    api.worker_life = [box("qwen-b")]
    done = stoker("workers", "drain", "box-1", "--timeout", "1")
    assert done.exit_code == 124
    assert done.stderr.splitlines() == [
        "error: box-1 is not empty after 1 s: 1 instance still there",
        "hint: it goes on by itself: see `stoker workers describe box-1`; `stoker workers uncordon box-1` calls it off",
    ]


def test_one_that_is_called_off(api: FakeApi, stoker: Stoker) -> None:
    api.worker_life = [box("qwen-b"), box("qwen-b", state=WorkerState.READY)]
    done = stoker("workers", "drain", "box-1")
    assert done.exit_code == 1
    assert done.stderr == "error: the drain of box-1 was called off: it is ready, with 1 instance\n"


@pytest.mark.parametrize("command", ["cordon", "uncordon", "drain"])
def test_a_worker_that_is_not_there(command: str, stoker: Stoker) -> None:
    done = stoker("workers", command, "nix")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == "error: there is no worker 'nix'\nhint: see `stoker workers`\n"


@pytest.mark.parametrize(
    ("looks", "lines"),
    [
        ([(0, "ab"), (1, "b"), (2, "")], ["a has left box-1, 1 to go", "b has left box-1, 0 to go"]),
        ([(0, "abc"), (1, "c")], ["a has left box-1, 2 to go", "b has left box-1, 1 to go"]),
        ([(0, "a"), (LINE_EVERY_SECONDS - 1, "a"), (60, "a"), (61, "a")], ["still on box-1 after 1m: a"]),
        ([(0, "ab"), (9, "b"), (15, "b"), (19, "b")], ["a has left box-1, 1 to go", "still on box-1 after 19s: b"]),
        ([(0, "")], []),
    ],
)
def test_what_is_said_on_the_way(
    looks: Sequence[tuple[float, str]], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    said = DrainLines("box-1", lambda: now[0])
    for now[0], there in looks:
        said.show(list(there))
    assert capsys.readouterr().err.splitlines() == lines
