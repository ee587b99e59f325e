"""The whole system goes and comes back on the same data folder: what was deployed runs again without a human."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.e2e.system import System, eventually


@pytest.fixture
def deployed(tmp_path: Path, tiny: Path) -> System:
    """A system with one deployment, stopped by the test itself."""
    system = System(tmp_path / "data folder", "--model-dir", str(tiny.parent))  # a space in the path, too
    system.start()
    system.cli("deploy", "tiny", "--model", f"file:{tiny}")
    return system


def test_an_orderly_stop(deployed: System) -> None:
    claimed = deployed.claims()
    deployed.stop()
    assert deployed.engine_pids() == []
    deployed.start()
    deployed.running("tiny")
    eventually(lambda: deployed.answers("tiny"), deployed.logs)
    assert deployed.claims() == claimed
    assert len(deployed.engine_pids()) == 1
    deployed.stop()


def test_a_killed_supervisor_takes_everything_with_it(deployed: System) -> None:
    claimed, family = deployed.claims(), [*deployed.pids().values(), *deployed.engine_pids()]
    deployed.kill()
    eventually(
        lambda: not [pid for pid in family if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"],
        deployed.logs,
    )
    deployed.start()
    deployed.running("tiny")
    eventually(lambda: deployed.answers("tiny"), deployed.logs)
    assert deployed.claims() == claimed
    assert len(deployed.engine_pids()) == 1
    deployed.stop()


def test_interrupted_twice_it_still_stops_in_order(deployed: System) -> None:
    family = [*deployed.pids().values(), *deployed.engine_pids()]
    for _ in range(2):
        os.kill(deployed.pid, signal.SIGINT)
    deployed.stop()
    assert not [pid for pid in family if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
