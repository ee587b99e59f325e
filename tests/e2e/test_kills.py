"""kill -9 of every process in turn: the model is running again without a human, nothing doubled, nothing left over."""

import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.e2e.system import System, eventually


@pytest.fixture(scope="module")
def tiny_deployment(system: System, tiny: Path) -> str:
    """Small and always there: the file's tests kill what is around it."""
    system.cli("deploy", "tiny", "--model", f"file:{tiny}")
    return "tiny"


@pytest.mark.parametrize("victim", ["server", "control-plane", "worker", "temporal", "engine"])
def test_kill(system: System, tiny_deployment: str, victim: str, capsys: pytest.CaptureFixture[str]) -> None:
    (before,) = system.running(tiny_deployment)
    claimed = system.claims()
    killed = before["pid"] if victim == "engine" else system.pids()[victim]
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()

    if victim != "engine":
        eventually(lambda: system.pids().get(victim, killed) != killed, lambda: f"{victim} is not restarted")
    eventually(lambda: system.answers(tiny_deployment), system.logs)
    answering = time.monotonic() - began

    (after,) = system.running(tiny_deployment)
    assert (after["pid"] == before["pid"]) is (victim != "engine")
    assert after["incarnation"] == before["incarnation"] + (victim == "engine")
    eventually(lambda: system.claims() == claimed, lambda: f"{system.claims()} is not {claimed}")
    eventually(lambda: system.engine_pids() == [after["pid"]], lambda: f"orphans: {system.engine_pids()}")
    with capsys.disabled():
        same = "same" if after["pid"] == before["pid"] else "new"
        print(f"\n  kill -9 {victim:<14} answers again after {answering:6.2f} s, engine pid {same}")

    # What was killed does its work again: a change goes through, and goes away.
    eventually(lambda: _can_change(system), system.logs)
    system.cli("deploy", "second", "--model", before_model(system, tiny_deployment))
    system.cli("rm", "second")
    assert system.deployment("second") is None


def before_model(system: System, name: str) -> str:
    """The model of a deployment."""
    found = system.deployment(name)
    assert found is not None
    return str(found["model"])


def _can_change(system: System) -> bool:
    """Whether the API, Temporal and the worker are all there."""
    try:
        with system.api() as api:
            ready = api.get(f"{system.url}/readyz").json()
            workers = api.get("/workers").json()["data"]
    except httpx.HTTPError:
        return False
    return ready["checks"]["temporal"]["status"] == "ok" and all(worker["state"] == "ready" for worker in workers)


def test_deleting_right_after_the_agent_was_killed(system: System, tiny: Path) -> None:
    system.cli("deploy", "doomed", "--model", f"file:{tiny}")
    (instance,) = system.running("doomed")
    os.kill(system.pids()["worker"], signal.SIGKILL)
    system.cli("rm", "doomed", "--timeout", "90")
    eventually(lambda: instance["pid"] not in system.engine_pids(), lambda: f"{instance['pid']} is left")
