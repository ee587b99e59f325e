"""What a worker reports to hold: looked up beside the report, never in its way."""

import threading
from pathlib import Path

from structlog.testing import capture_logs

from worker_agent.held_models import MOST_KEYS, REFRESH_SECONDS, HeldModels


class Disk:
    """A cache that takes as long to look at as a test wants."""

    def __init__(self) -> None:
        self.keys: tuple[str, ...] = ("a",)
        self.looks = 0
        self.error: OSError | None = None
        self.may_end = threading.Event()
        self.may_end.set()
        self.ended = threading.Event()
        self.now = 100.0

    def find(self, folder: Path, most: int) -> tuple[str, ...]:
        """As `find_whole_models`."""
        assert (folder, most) == (Path("/cache"), MOST_KEYS)
        self.looks += 1
        self.may_end.wait(60)
        self.ended.set()
        if self.error is not None:
            raise self.error
        return self.keys

    def held(self) -> HeldModels:
        """What is tested, on this disk and this clock."""
        return HeldModels(Path("/cache"), find=self.find, clock=lambda: self.now)


def test_a_look_holds_for_a_while() -> None:
    disk = Disk()
    held = disk.held()
    assert held.keys() == ("a",)
    disk.keys = ("a", "b")
    disk.now += REFRESH_SECONDS - 1
    assert (held.keys(), disk.looks) == (("a",), 1)
    disk.now += 1
    assert (held.keys(), disk.looks) == (("a", "b"), 2)


def test_what_was_fetched_is_seen_at_the_next_question() -> None:
    disk = Disk()
    held = disk.held()
    held.keys()
    disk.keys = ("a", "b")
    held.look_again()
    assert (held.keys(), held.keys(), disk.looks) == (("a", "b"), ("a", "b"), 2)


def test_a_slow_disk_keeps_nobody_waiting_and_is_asked_once() -> None:
    disk = Disk()
    held = disk.held()
    held.keys()
    disk.keys = ("a", "b")
    disk.may_end.clear()
    disk.ended.clear()
    disk.now += REFRESH_SECONDS
    assert held.keys() == ("a",), "what is known, while the look goes on"
    disk.now += 10 * REFRESH_SECONDS
    assert (held.keys(), disk.looks) == (("a",), 2)
    disk.may_end.set()
    assert disk.ended.wait(60)
    for thread in threading.enumerate():
        if thread.name == "held models":
            thread.join(60)
    assert held.keys() == ("a", "b")


def test_a_broken_disk_is_told_of_and_what_was_known_holds() -> None:
    disk = Disk()
    held = disk.held()
    held.keys()
    disk.error = OSError(5, "Input/output error")
    disk.now += REFRESH_SECONDS
    with capture_logs() as logs:
        assert held.keys() == ("a",)
    assert [(entry["event"], entry["folder"]) for entry in logs] == [("model_cache_not_read", "/cache")]
    disk.error, disk.keys = None, ("b",)
    disk.now += REFRESH_SECONDS
    assert held.keys() == ("b",)
