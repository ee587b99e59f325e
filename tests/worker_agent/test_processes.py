"""The life of one process: the pure transitions, and starting a program."""

import os
import shlex
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.ports import ProcessPhase, ProcessStatus
from worker_agent.processes import Observation, advance, spawn
from worker_agent.records import ProcessExit

STARTING = ProcessStatus(phase=ProcessPhase.STARTING, pid=7)
LOADING = ProcessStatus(phase=ProcessPhase.LOADING, pid=7, port=80, progress=0.5)
READY = ProcessStatus(phase=ProcessPhase.READY, pid=7, port=80, progress=1.0)
END = ProcessExit(code=1, cause="broke", retryable=False)
EXITED = ProcessStatus(phase=ProcessPhase.EXITED, pid=7, exit_code=1, cause="broke", retryable=False)


@pytest.mark.parametrize(
    ("before", "seen", "after"),
    [
        (STARTING, Observation(), STARTING),
        (STARTING, Observation(port=80, loaded=0.5), LOADING),
        (STARTING, Observation(port=80, healthy=True), READY),
        (STARTING, Observation(healthy=True), STARTING),  # a health without a port is nobody's
        (STARTING, Observation(exit=END), EXITED),
        (LOADING, Observation(port=80, loaded=0.2), LOADING),  # progress does not go back
        (LOADING, Observation(port=80, loaded=7.0), LOADING.model_copy(update={"progress": 0.99})),
        (LOADING, Observation(port=80, healthy=True), READY),
        (READY, Observation(port=80), READY),  # an engine that is too busy to answer /health is ready still
        (READY, Observation(exit=END), EXITED.model_copy(update={"port": 80, "progress": 1.0})),
        (EXITED, Observation(port=80, healthy=True), EXITED),
    ],
)
def test_advance(before: ProcessStatus, seen: Observation, after: ProcessStatus) -> None:
    assert advance(before, seen) == after


_ORDER = list(ProcessPhase)
_OBSERVATIONS = st.builds(
    Observation,
    port=st.sampled_from([0, 80]),
    healthy=st.booleans(),
    loaded=st.floats(-1, 2),
    exit=st.sampled_from([None, None, None, END]),
)


@given(st.lists(_OBSERVATIONS))
def test_no_order_of_observations_takes_a_process_back(observations: list[Observation]) -> None:
    status = STARTING
    for seen in observations:
        before, status = status, advance(status, seen)
        assert _ORDER.index(status.phase) >= _ORDER.index(before.phase)
        assert 0.0 <= before.progress <= status.progress <= 1.0
        assert (status.phase is ProcessPhase.EXITED) == (before.phase is ProcessPhase.EXITED or seen.exit is not None)


def test_spawn_detaches_and_appends_to_its_log(tmp_path: Path) -> None:
    code = (
        "import os, sys; print('to stderr', file=sys.stderr, flush=True);"
        " print(os.getsid(0) == os.getpid(), os.getcwd(), os.environ['MARK'], sys.stdin.read() == '')"
    )
    log_file = tmp_path / "log"
    log_file.write_text("before\n")
    pid = spawn([sys.executable, "-c", code], {"MARK": "x y"}, log_file, tmp_path)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    first, command, *output = log_file.read_text().splitlines()
    assert first == "before"
    assert shlex.split(command)[1:] == [sys.executable, "-c", code]  # after the time
    assert output == ["to stderr", f"True {tmp_path} x y True"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_spawn_keeps_sigpipe_ignored(tmp_path: Path) -> None:
    pid = spawn(["grep", "SigIgn", "/proc/self/status"], {"PATH": os.environ["PATH"]}, tmp_path / "log", tmp_path)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    ignored = int((tmp_path / "log").read_text().split()[-1], 16)
    assert ignored & 1 << (signal.SIGPIPE - 1)


def test_spawn_does_not_write_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "log").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        spawn([sys.executable, "-c", ""], {}, tmp_path / "log", tmp_path)
    assert (tmp_path / "target").read_text() == ""


def test_the_end_of_a_spawned_process_is_ours_to_collect(tmp_path: Path) -> None:
    pid = spawn([sys.executable, "-c", "import time; time.sleep(600)"], {}, tmp_path / "log", tmp_path)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
