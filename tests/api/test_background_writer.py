"""What waits is written, in order and to the end, whatever the database or our own code does meanwhile."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import pytest
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from api import background_writer
from api.background_writer import BackgroundWriter, Chore
from tests.api.usage.records import until

WITHIN = 30.0
AWAY = OperationalError("a statement", None, ConnectionError("away"))
BUG = RuntimeError("a bug")
HOUR = 3600.0


class Shelf:
    """Numbers that wait, two a batch, and those that were taken; one of `troubles` is raised at each attempt."""

    def __init__(self, troubles: Sequence[Exception] = ()) -> None:
        self.changed = threading.Condition()
        self.waiting: deque[int] = deque()
        self.sent: list[list[int]] = []
        self.troubles = deque(troubles)
        self.chores = 0
        self.chore_troubles: deque[Exception] = deque()

    def put(self, *numbers: int) -> None:
        with self.changed:
            self.waiting.extend(numbers)
            self.changed.notify_all()

    def first(self) -> list[int]:
        return list(self.waiting)[:2]

    def send(self, batch: Sequence[int]) -> None:
        if self.troubles:
            raise self.troubles.popleft()
        self.sent.append(list(batch))
        with self.changed:
            for _ in batch:
                self.waiting.popleft()

    def chore(self) -> None:
        if self.chore_troubles:
            raise self.chore_troubles.popleft()
        self.chores += 1

    def writer(self, *, every: float = HOUR, first: Callable[[], Sequence[int]] | None = None) -> BackgroundWriter[int]:
        return BackgroundWriter(
            "numbers",
            self.changed,
            waits=lambda: self.waiting,
            first=first or self.first,
            send=self.send,
            chore=Chore(self.chore, every),
        )


@pytest.fixture
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_writer, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(background_writer, "LONGEST_PAUSE_SECONDS", 0.05)


@pytest.fixture
def logs() -> Iterator[list[dict[str, object]]]:
    """What is logged."""
    with capture_logs() as lines:
        yield lines  # type: ignore[misc]


def test_what_waits_is_sent_in_batches_and_what_comes_later_by_itself() -> None:
    shelf = Shelf()
    shelf.put(1, 2, 3)
    writer = shelf.writer()
    writer.start()
    until(lambda: shelf.sent == [[1, 2], [3]])
    shelf.put(4)
    until(lambda: shelf.sent == [[1, 2], [3], [4]])
    writer.close(WITHIN)


@pytest.mark.usefixtures("_short_pauses")
def test_the_pause_grows_up_to_a_bound_and_is_short_again_after_a_success(logs: list[dict[str, object]]) -> None:
    shelf = Shelf([AWAY] * 5)
    shelf.put(1)
    writer = shelf.writer()
    writer.start()
    until(lambda: shelf.sent == [[1]])
    shelf.troubles.append(AWAY)
    shelf.put(2)
    until(lambda: shelf.sent == [[1], [2]])
    writer.close(WITHIN)
    assert {line["event"] for line in logs} == {"numbers_not_written"}
    assert [line["again_in_seconds"] for line in logs] == [0.01, 0.02, 0.04, 0.05, 0.05, 0.01]


@pytest.mark.usefixtures("_short_pauses")
def test_a_crash_is_not_its_end_wherever_it_is(logs: list[dict[str, object]]) -> None:
    shelf = Shelf([BUG])
    unreadable = deque([OSError("a disk")])

    def first() -> list[int]:
        if unreadable:
            raise unreadable.popleft()
        return shelf.first()

    shelf.chore_troubles.append(BUG)
    shelf.put(1)
    writer = shelf.writer(first=first)
    writer.start()
    until(lambda: shelf.sent == [[1]] and shelf.chores)
    writer.close(WITHIN)
    assert [line["event"] for line in logs] == ["numbers_writer_crashed"] * 3


def test_closing_sends_all_that_waits() -> None:
    shelf = Shelf()
    writer = shelf.writer()
    writer.start()
    shelf.put(*range(101))
    writer.close(WITHIN)
    assert [number for batch in shelf.sent for number in batch] == list(range(101))


def test_closing_does_not_wait_for_the_end_of_a_pause(
    monkeypatch: pytest.MonkeyPatch, logs: list[dict[str, object]]
) -> None:
    monkeypatch.setattr(background_writer, "LONGEST_PAUSE_SECONDS", HOUR)
    shelf = Shelf([BUG])
    shelf.put(1)
    writer = shelf.writer()
    writer.start()
    until(lambda: logs)
    writer.close(WITHIN)
    assert shelf.sent == [[1]]


def test_after_its_time_it_gives_up_what_waits_still(logs: list[dict[str, object]]) -> None:
    shelf = Shelf([AWAY] * 1000)
    shelf.put(1)
    writer = shelf.writer()
    writer.start()
    until(lambda: logs)
    assert not writer.given_up
    writer.close(0.0)
    assert writer.given_up
    assert list(shelf.waiting) == [1]
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "numbers-writer"])


def test_one_that_never_began_may_be_closed() -> None:
    shelf = Shelf()
    shelf.put(1)
    shelf.writer().close(WITHIN)
    assert (shelf.sent, list(shelf.waiting)) == ([], [1])


def test_the_chore_is_done_at_once_and_again_and_again() -> None:
    shelf = Shelf()
    writer = shelf.writer(every=0.01)
    writer.start()
    until(lambda: shelf.chores > 3)
    writer.close(WITHIN)


@pytest.mark.usefixtures("_short_pauses")
def test_a_chore_that_failed_is_done_after_the_pause_and_holds_nothing_up() -> None:
    shelf = Shelf()
    shelf.chore_troubles.extend([AWAY] * 3)
    writer = shelf.writer()
    shelf.put(1)
    writer.start()
    until(lambda: shelf.chores == 1)
    assert shelf.sent == [[1]]
    writer.close(WITHIN)


def test_one_that_stops_does_no_chore() -> None:
    shelf = Shelf()
    shelf.put(1)
    send, is_sending = shelf.send, threading.Event()

    def slowly(batch: Sequence[int]) -> None:
        is_sending.set()
        until(lambda: writer.stopping)
        send(batch)

    shelf.send = slowly  # type: ignore[method-assign]
    writer = shelf.writer()
    writer.start()
    assert is_sending.wait(WITHIN)
    writer.close(WITHIN)
    assert (shelf.sent, shelf.chores) == ([[1]], 0)
