"""Backup and restore of a data folder: whole, of one moment, private, and never over what is there."""

import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from entrypoints import backup as backup_module
from entrypoints.backup import BackupError, Manifest, back_up, restore
from entrypoints.folder_lock import locked
from stoker.settings import Settings
from stoker.storage.engine import Database
from stoker.storage.migrate import known_revisions, migrate
from stoker.storage.workers import Workers
from tests.builders import make_worker

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A data folder as `stoker up` leaves it, its databases open in WAL mode and with unwritten pages in the log."""
    found = Settings(data_dir=tmp_path / "data")
    database = Database(found.database_url)
    migrate(database)
    with database.write() as session:
        Workers(session, NOW).join(make_worker(name="w1"), credential_hash="", engine_secret="")
    with closing(sqlite3.connect(found.data_dir / "temporal.db")) as temporal:
        temporal.execute("PRAGMA journal_mode=WAL")
        temporal.execute("CREATE TABLE step (number INTEGER)")
        temporal.execute("INSERT INTO step VALUES (0)")
        temporal.commit()
    for name in ("server-secret", "join-token", "admin-key"):
        (found.data_dir / name).write_text(f"{name} of the test\n")
    (found.data_dir / "logs").mkdir()
    return found


def test_there_and_back(settings: Settings, tmp_path: Path) -> None:
    made = back_up(settings, tmp_path / "backup", NOW)
    assert set(made.files) == {"stoker.db", "temporal.db", "server-secret", "join-token", "admin-key"}
    elsewhere = Settings(data_dir=tmp_path / "elsewhere")
    assert restore(elsewhere, tmp_path / "backup") == made
    database = Database(elsewhere.database_url)
    with database.read() as session:
        assert [one.worker.name for one in Workers(session, NOW).all()] == ["w1"]
    database.close()
    assert (elsewhere.data_dir / "server-secret").read_text() == "server-secret of the test\n"


def test_only_its_user_may_read_it(settings: Settings, tmp_path: Path) -> None:
    back_up(settings, tmp_path / "backup", NOW)
    restore(elsewhere := Settings(data_dir=tmp_path / "elsewhere"), tmp_path / "backup")
    for folder in (tmp_path / "backup", elsewhere.data_dir):
        assert folder.stat().st_mode & 0o777 == 0o700
    secrets = [path for path in tmp_path.rglob("*") if path.name in ("server-secret", "stoker.db", "admin-key")]
    copies = [path for path in secrets if settings.data_dir not in path.parents]
    assert len(copies) == 6
    assert {path.stat().st_mode & 0o777 for path in copies} == {0o600}


def test_temporal_never_knows_of_more_than_the_rows(settings: Settings, tmp_path: Path) -> None:
    """As an activity writes: a row first, and only then Temporal is told that it is done."""
    rows = settings.data_dir / "stoker.db"
    with closing(sqlite3.connect(rows)) as database:
        database.execute("CREATE TABLE step (number INTEGER)")
        database.execute("INSERT INTO step VALUES (0)")
        database.commit()
    stop, wrote = threading.Event(), threading.Event()

    def work() -> None:
        with (
            closing(sqlite3.connect(rows, timeout=60)) as database,
            closing(sqlite3.connect(settings.data_dir / "temporal.db", timeout=60)) as temporal,
        ):
            number = 0
            while not stop.is_set():
                number += 1
                for one in (database, temporal):
                    one.execute("UPDATE step SET number = ?", (number,))
                    one.commit()
                if number == 20:
                    wrote.set()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        assert wrote.wait(60)
        for number in range(10):
            back_up(settings, tmp_path / f"backup-{number}", NOW)
    finally:
        stop.set()
        worker.join()
    for number in range(10):
        row, told = (step(tmp_path / f"backup-{number}" / name) for name in ("stoker.db", "temporal.db"))
        assert row - 1 <= told <= row
    assert step(tmp_path / "backup-9" / "stoker.db") > step(tmp_path / "backup-0" / "stoker.db"), "work went on"


def test_nobody_waits_for_the_copies(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = backup_module._copy_database

    def copy_while_others_write(seen: sqlite3.Connection, source: Path, target: Path) -> None:
        for name in ("stoker.db", "temporal.db"):
            with closing(sqlite3.connect(settings.data_dir / name, timeout=0)) as other:  # fails where it must wait
                other.execute(f"CREATE TABLE while_{target.stem} (number INTEGER)")
                other.commit()
        copy(seen, source, target)

    monkeypatch.setattr(backup_module, "_copy_database", copy_while_others_write)
    back_up(settings, tmp_path / "backup", NOW)
    for name in ("stoker.db", "temporal.db"):
        with closing(sqlite3.connect(tmp_path / "backup" / name)) as database:
            late = database.execute("SELECT name FROM sqlite_master WHERE name LIKE 'while%'").fetchall()
        assert late == [], "it is of the moment at which the backup began"


def step(path: Path) -> int:
    """The number that a database has come to."""
    with closing(sqlite3.connect(path)) as database:
        (number,) = database.execute("SELECT number FROM step").fetchone()
    return int(number)


def test_nothing_is_overwritten(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(BackupError, match="is there already"):
        back_up(settings, tmp_path / "full", NOW)
    (tmp_path / "empty").mkdir()
    back_up(settings, tmp_path / "empty", NOW)
    with pytest.raises(BackupError, match=r"is not empty: admin-key, join-token, server-secret, stoker\.db"):
        restore(settings, tmp_path / "empty")
    with locked(settings.data_dir), pytest.raises(BackupError, match="a `stoker up` runs on this data folder"):
        restore(settings, tmp_path / "empty")


def test_a_backup_that_fails_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    (settings.data_dir / "temporal.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(BackupError, match=r"temporal\.db cannot be read: file is not a database"):
        back_up(settings, tmp_path / "backup", NOW)
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_what_cannot_be_backed_up(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="there is no database at") as refused:
        back_up(Settings(data_dir=tmp_path / "nothing"), tmp_path / "backup", NOW)
    assert "--data-dir" in refused.value.hint
    elsewhere = Settings(data_dir=tmp_path, database={"url": "postgresql://stoker:secret@db/stoker"})  # type: ignore[arg-type]
    with pytest.raises(BackupError, match="the database is postgresql") as refused:
        back_up(elsewhere, tmp_path / "backup", NOW)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "stoker.db").write_bytes(b"other"), "stoker.db is missing or was changed"),
        (lambda folder: (folder / "join-token").unlink(), "join-token is missing or was changed"),
        (lambda folder: (folder / "backup.json").write_text("{"), "is no backup"),
        (lambda folder: (folder / "backup.json").unlink(), "is no backup"),
        (lambda folder: rewrite(folder, tables="9999"), r"does not know its tables \(9999\)"),
        (lambda folder: rewrite(folder, format=2), "does not know its tables"),
        (lambda folder: rewrite(folder, name="../../etc/cron.d/x"), r"none of Stoker's: \.\./\.\./etc"),
    ],
)
def test_a_damaged_backup_is_refused_whole(settings: Settings, tmp_path: Path, damage: object, said: str) -> None:
    back_up(settings, tmp_path / "backup", NOW)
    assert callable(damage)
    damage(tmp_path / "backup")
    elsewhere = Settings(data_dir=tmp_path / "elsewhere")
    with pytest.raises(BackupError, match=said):
        restore(elsewhere, tmp_path / "backup")
    assert not elsewhere.data_dir.exists()


def rewrite(folder: Path, *, name: str = "", **changed: object) -> None:
    """Changes what the backup says of itself; `name`: of one more file."""
    made = Manifest.model_validate_json((folder / "backup.json").read_text())
    files = {**made.files, **({name: made.files["stoker.db"]} if name else {})}
    (folder / "backup.json").write_text(made.model_copy(update={"files": files, **changed}).model_dump_json())


def test_the_revisions_that_are_known(settings: Settings, tmp_path: Path) -> None:
    assert back_up(settings, tmp_path / "backup", NOW).tables == max(known_revisions())
    assert min(known_revisions()) == "0001"
