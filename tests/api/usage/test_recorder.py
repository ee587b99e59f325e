"""Records of requests: all of them are written once, or it is said how many are not."""

import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import OperationalError

from api import background_writer
from api.usage import recorder as recorders
from api.usage.recorder import UsageRecorder
from entrypoints.clock import utc_now
from stoker.storage.engine import Database
from stoker.storage.usage_writing import write_batches
from tests.api.usage.records import numbers, record, said, tallied, until
from tests.faults.databases import Postgres

Make = Callable[..., UsageRecorder]

PROGRAM = [sys.executable, "-m", "tests.api.usage.recording_process"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches come twenty times a second, and nobody waits long for anything."""
    monkeypatch.setattr(recorders, "BATCH_EVERY_SECONDS", 0.05)
    monkeypatch.setattr(background_writer, "LONGEST_PAUSE_SECONDS", 0.3)
    monkeypatch.setattr(recorders, "_LEFT_EVERY_SECONDS", 0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where recorders keep what waits."""
    return tmp_path / "usage"


@pytest.fixture
def make(database: Database, folder: Path) -> Iterator[Make]:
    """Makes recorders on the database; they end with the test."""
    made: list[UsageRecorder] = []

    def one(**options: Any) -> UsageRecorder:
        made.append(UsageRecorder(options.pop("database", database), folder, utc_now, **options))
        return made[-1]

    yield one
    for each in made:
        with suppress(RuntimeError, ValueError):  # it never started, or was closed by the test
            each.close(0)


class Process:
    """A recording process."""

    def __init__(self, database: Database, folder: Path) -> None:
        url = database.engine.url.render_as_string(hide_password=False)
        self._process = subprocess.Popen(
            [*PROGRAM, url, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, line: str) -> None:
        """Returns when it is done."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()
        self._close()

    def end(self) -> None:
        """In good order."""
        assert self._process.stdin
        self._process.stdin.close()
        assert self._process.wait(30) == 0
        self._close()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            with suppress(BrokenPipeError):
                pipe.close()


class Away:
    """A database that does not answer while `away` is set. `attempts` counts who tried."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.away = threading.Event()
        self.attempts = 0

    def write(self) -> Any:
        self.attempts += 1
        if self.away.is_set():
            raise OperationalError("a statement", None, ConnectionError("away"))
        return self._database.write()


def test_what_is_recorded_is_written_once_and_in_order(database: Database, make: Make, folder: Path) -> None:
    recorder = make()
    recorder.start()
    for number in range(5000):
        recorder.record(record(number))
    until(lambda: not recorder.waiting)
    assert numbers(database) == list(range(5000))
    recorder.record(record(5000))
    recorder.close(10)
    assert numbers(database) == list(range(5001))
    assert recorder.lost == 0
    assert list(folder.iterdir()) == []


def test_files_are_the_users_alone(make: Make, folder: Path, database: Database) -> None:
    away = Away(database)
    away.away.set()
    recorder = make(database=away)
    recorder.start()
    recorder.record(record(1))
    until(lambda: recorder.spooled)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = sorted(folder.iterdir())
    assert [file.suffix for file in files] == [".spool", ".tally"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_while_the_database_is_away_records_wait_on_disk(make: Make, database: Database, folder: Path) -> None:
    away = Away(database)
    recorder = make(database=away)
    recorder.start()
    recorder.record(record(0))
    until(lambda: not recorder.waiting)
    away.away.set()
    for number in range(1, 400):
        recorder.record(record(number))
        if number % 100 == 0:
            until(lambda: recorder.spooled == recorder.waiting)
    until(lambda: recorder.spooled == 399)
    away.away.clear()
    for number in range(400, 500):  # behind those that wait
        recorder.record(record(number))
    until(lambda: not recorder.waiting)
    assert numbers(database) == list(range(500))
    (spool,) = folder.glob("*.spool")
    until(lambda: spool.stat().st_size == 0, "it shrinks when all is sent")
    assert recorder.lost == 0


def test_a_stop_while_the_database_is_away_loses_nothing(make: Make, database: Database) -> None:
    away = Away(database)
    away.away.set()
    recorder = make(database=away)
    recorder.start()
    for number in range(10):
        recorder.record(record(number))
    recorder.close(0.1)
    recorder.record(record(99))  # too late, and harmless
    assert numbers(database) == []
    heir = make()
    heir.start()
    until(lambda: numbers(database) == list(range(10)))
    assert heir.lost == 0


def test_a_commit_that_nobody_heard_of_counts_once(
    make: Make, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = iter([True, True, False, True])

    class Unheard(Away):
        """Commits, and says that it did not."""

        def write(self) -> Any:
            from contextlib import contextmanager

            @contextmanager
            def writing() -> Iterator[Any]:
                with database.write() as session:
                    yield session
                if next(fails, False):
                    raise OperationalError("COMMIT", None, ConnectionError("reset"))

            return writing()

    recorder = make(database=Unheard(database))
    recorder.start()
    for number in range(30):
        recorder.record(record(number))
        if number % 10 == 0:
            until(lambda: not recorder.waiting)
    until(lambda: not recorder.waiting)
    assert numbers(database) == list(range(30))


def test_a_killed_process_loses_no_more_than_it_says(
    database: Database, make: Make, folder: Path, logs: list[dict[str, object]]
) -> None:
    process = Process(database, folder)
    process.tell("record 0 1000")
    process.tell("confirmed")
    process.tell("record 1000 1007")
    process.kill()
    assert tallied(folder)["made"] == 1007
    heir = make()
    heir.start()
    until(lambda: len(list(folder.glob("*.tally"))) == 1)
    until(lambda: [line for line in logs if line["event"] == "usage_of_a_dead_process"])
    written = numbers(database)
    assert written == list(range(len(written)))
    assert len(written) >= 1000, "what was confirmed is kept"
    line = said(logs, "usage_of_a_dead_process")
    assert (line["written"], line["lost"]) == (len(written), 1007 - len(written))
    assert heir.lost == 1007 - len(written)
    registry = CollectorRegistry()
    registry.register(heir)
    assert registry.get_sample_value("stoker_usage_records_lost_total") == heir.lost
    assert registry.get_sample_value("stoker_usage_records_waiting") == 0


def test_a_process_killed_while_the_database_is_away_leaves_its_records_to_the_next(
    postgres: Postgres, tmp_path: Path, folder: Path, logs: list[dict[str, object]]
) -> None:
    from stoker.storage.migrate import migrate

    database = Database(postgres.url)
    migrate(database)
    before = numbers(database)
    database.close()
    process = Process(database, folder)
    process.tell("record 0 100")
    process.tell("confirmed")
    postgres.stop()
    process.tell("record 100 300")
    process.tell("spooled")
    process.kill()
    heir = UsageRecorder(database, folder, utc_now)
    heir.start()
    heir.record(record(300))
    until(lambda: heir.spooled == 1)
    postgres.start()
    until(lambda: [line for line in logs if line["event"] == "usage_of_a_dead_process"])
    until(lambda: not heir.waiting)
    assert sorted(numbers(database)[len(before) :]) == list(range(301))
    assert heir.lost == 0
    heir.close(10)
    assert list(folder.iterdir()) == []
    database.close()


def test_a_postgresql_that_is_stopped_again_and_again_gets_each_record_once(postgres: Postgres, folder: Path) -> None:
    from stoker.storage.migrate import migrate

    database = Database(postgres.url)
    migrate(database)
    before = len(numbers(database))
    recorder = UsageRecorder(database, folder, utc_now)
    recorder.start()
    stop = threading.Event()
    made = 0

    def restart() -> None:
        for _ in range(3):
            postgres.stop()
            postgres.start()
        stop.set()

    thread = threading.Thread(target=restart)
    thread.start()
    while not stop.wait(0.001):
        recorder.record(record(made))
        made += 1
    thread.join()
    until(lambda: not recorder.waiting)
    assert numbers(database)[before:] == list(range(made))
    recorder.close(10)
    database.close()


def test_an_orderly_end_of_a_process_leaves_no_files(database: Database, folder: Path) -> None:
    process = Process(database, folder)
    process.tell("record 0 50")
    process.end()
    assert numbers(database) == list(range(50))
    assert list(folder.iterdir()) == []


def test_several_heirs_write_what_was_left_once(database: Database, make: Make, folder: Path) -> None:
    away = Away(database)
    away.away.set()
    for first in (0, 10, 20):
        dead = make(database=away)
        dead.start()
        for number in range(first, first + 10):
            dead.record(record(number))
        dead.close(0)
    assert len(list(folder.glob("*.tally"))) == 3
    heirs = [make() for _ in range(3)]
    for heir in heirs:
        heir.start()
    until(lambda: len(list(folder.glob("*.tally"))) == 3)
    until(lambda: sorted(numbers(database)) == list(range(30)))
    assert sum(heir.lost for heir in heirs) == 0


def test_where_nothing_has_room_the_newest_are_dropped_and_counted(
    make: Make, database: Database, logs: list[dict[str, object]]
) -> None:
    away = Away(database)
    away.away.set()
    recorder = make(database=away, spool_bytes=100, most_in_memory=50)
    for number in range(60):  # as if nobody took any for long
        recorder.record(record(number))
    assert recorder.lost == 10
    recorder.start()
    until(lambda: any(line["event"] == "usage_spool_not_written" for line in logs))
    for number in range(60, 100):
        recorder.record(record(number))
    until(lambda: recorder.lost == 50)
    assert said(logs, "usage_records_dropped")["records"] == 40
    lost, waiting = recorder.lost, recorder.waiting
    away.away.clear()
    until(lambda: not recorder.waiting)
    assert numbers(database) == list(range(50)), "what is kept is whole up to a moment"
    assert (lost, waiting) == (50, 50)


def test_a_spool_that_cannot_be_written_is_made_up_for_by_memory(
    make: Make, database: Database, folder: Path, logs: list[dict[str, object]]
) -> None:
    away = Away(database)
    away.away.set()
    recorder = make(database=away)
    (tally,) = folder.glob("*.tally")
    tally.with_suffix(".spool").mkdir()
    recorder.start()
    for number in range(20):
        recorder.record(record(number))
    until(lambda: any(line["event"] == "usage_spool_not_written" for line in logs))
    away.away.clear()
    until(lambda: not recorder.waiting)
    assert numbers(database) == list(range(20))


def test_values_that_no_column_holds_do_not_hold_up_the_others(
    make: Make, database: Database, logs: list[dict[str, object]]
) -> None:
    away = Away(database)
    away.away.set()
    recorder = make(database=away)
    recorder.start()
    for number in range(3):
        recorder.record(record(number)._replace(input_tokens=2**70) if number == 1 else record(number))
        until(lambda: recorder.spooled == recorder.waiting)  # each is a batch
    away.away.clear()
    until(lambda: not recorder.waiting)
    assert numbers(database) == [0, 2]
    assert recorder.lost == 1
    assert said(logs, "usage_records_not_taken")["records"] == 1


def test_a_crash_of_a_thread_is_not_its_end(
    make: Make, database: Database, monkeypatch: pytest.MonkeyPatch, logs: list[dict[str, object]]
) -> None:
    crashes = iter([True])

    def write(*arguments: Any) -> int:
        if next(crashes, False):
            raise RuntimeError("a bug")
        return write_batches(*arguments)

    monkeypatch.setattr(recorders, "write_batches", write)
    recorder = make()
    recorder.record(record(7))
    recorder.start()
    until(lambda: not recorder.waiting)
    assert numbers(database) == [7]
    assert [line["event"] for line in logs if "crashed" in str(line["event"])] == ["usage_writer_crashed"]
