"""Whether an agent was away for so long that what it ran may have been given to others."""

import os
import time
from pathlib import Path

import pytest
import structlog

from worker_agent.presence import Presence


class Clocks:
    """The host's clock and the steady one, moved by tests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.steady = time.time(), 1000.0
        monkeypatch.setattr("worker_agent.presence.time.time", lambda: self.wall)
        monkeypatch.setattr("worker_agent.presence.time.monotonic", lambda: self.steady)

    def advance(self, wall: float, steady: float | None = None) -> None:
        """Both, or each by itself."""
        self.wall += wall
        self.steady += wall if steady is None else steady


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.mark.parametrize(
    ("wall", "steady", "lost"),
    [
        (0.0, 0.0, False),
        (29.0, 29.0, False),
        (31.0, 31.0, True),
        (31.0, 0.1, True),  # the host slept: its steady clock did too
        (5.0, 31.0, True),  # somebody set the clock back
        (-5.0, 5.0, True),
        (-0.5, 5.0, False),
    ],
)
def test_while_it_lives(tmp_path: Path, clocks: Clocks, wall: float, steady: float, lost: bool) -> None:
    presence = Presence(tmp_path / "worker" / "last-report", 30.0)
    presence.taken()
    clocks.advance(wall, steady)
    assert presence.was_lost is lost
    presence.taken()
    assert not presence.was_lost


@pytest.mark.parametrize(("silence", "lost"), [(1.0, False), (29.0, False), (31.0, True), (-60.0, True)])
def test_over_a_restart(tmp_path: Path, clocks: Clocks, silence: float, lost: bool) -> None:
    file = tmp_path / "last-report"
    Presence(file, 30.0).taken()
    os.utime(file, (clocks.wall - silence, clocks.wall - silence))
    assert Presence(file, 30.0).was_lost is lost


def test_who_never_reported_was_lost(tmp_path: Path) -> None:
    assert Presence(tmp_path / "last-report", 30.0).was_lost


def test_without_a_file_it_knows_of_its_own_life_only(clocks: Clocks) -> None:
    presence = Presence(None, 30.0)
    assert not presence.was_lost
    presence.taken()
    clocks.advance(31)
    assert presence.was_lost


def test_a_disk_that_refuses_costs_no_report(tmp_path: Path) -> None:
    (tmp_path / "worker").touch()
    presence = Presence(tmp_path / "worker" / "last-report", 30.0)
    with structlog.testing.capture_logs() as logged:
        presence.taken()
    assert [entry["event"] for entry in logged] == ["presence_not_kept"]
    assert not presence.was_lost
    assert Presence(tmp_path / "worker" / "last-report", 30.0).was_lost
