"""`stoker workers remove`."""

import json

import pytest

from stoker.domain.workers import WorkerState
from tests.entrypoints.cli.conftest import Stoker
from tests.entrypoints.cli.test_draining import ALL_FIT, ONE_DOES_NOT, box
from tests.fakes.api import FakeApi


def removals(api: FakeApi) -> list[dict[str, str]]:
    """Those that were asked for."""
    return [asked.query for asked in api.requests if asked.method == "DELETE"]


@pytest.fixture(autouse=True)
def worker(api: FakeApi) -> None:
    """One that holds something of two instances."""
    api.workers = [box("llama-a", "qwen-b", state=WorkerState.READY)]
    api.what_if = ALL_FIT


def test_an_empty_one_goes_at_once(api: FakeApi, stoker: Stoker) -> None:
    api.workers = [box(state=WorkerState.READY)]
    done = stoker("workers", "remove", "box-1")
    assert (done.exit_code, done.stdout) == (0, "box-1: removed\n")
    assert removals(api) == [{"force": "false"}]
    assert api.workers == []


def test_one_that_holds_something_is_refused_with_what_to_do(api: FakeApi, stoker: Stoker) -> None:
    done = stoker("workers", "remove", "box-1", "--yes")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "error: box-1 still holds something of 2 instances",
        "hint: `stoker workers drain NAME` moves them first; with --force they are started anew elsewhere",
    ]
    assert len(api.workers) == 1


def test_by_force_what_would_move_is_shown_and_nothing_is_done_without_a_yes(api: FakeApi, stoker: Stoker) -> None:
    done = stoker("workers", "remove", "box-1", "--force")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "box-1: 1 instance would move, and it has a place elsewhere",
        "INSTANCE  WOULD MOVE TO",
        "llama-a   box-2: gpu0 (33 layers, 6 GiB)",
    ]
    assert done.stderr.splitlines()[-1] == (
        "hint: remove it all the same with --yes, or move them without a break: `stoker workers drain box-1`"
    )
    assert removals(api) == []

    done = stoker("workers", "remove", "box-1", "--force", "--yes")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "box-1: removed; 2 instances started anew elsewhere, see `stoker ps`"
    assert removals(api) == [{"force": "true"}]


def test_what_fits_nowhere_else_is_said(api: FakeApi, stoker: Stoker) -> None:
    api.what_if = ONE_DOES_NOT
    done = stoker("workers", "remove", "box-1", "--force")
    assert done.stderr.splitlines()[0] == (
        "error: box-1: 1 of 2 instances fits nowhere else now: it would stop, and wait for room"
    )
    assert removals(api) == []


def test_as_data_it_is_one_document(stoker: Stoker) -> None:
    done = stoker("workers", "remove", "box-1", "--force", "--yes", "-o", "json")
    assert json.loads(done.stdout) == {
        "name": "box-1",
        "instances": ["llama-a", "qwen-b"],
        "certificates_revoked": 1,
    }


def test_one_that_is_not_there(stoker: Stoker) -> None:
    done = stoker("workers", "remove", "nix", "--force", "--yes")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == "error: there is no worker 'nix'\nhint: see `stoker workers`\n"
