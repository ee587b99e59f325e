"""A copy of all that `stoker up` needs to go on elsewhere: its two databases and its secrets. Made while it runs.

The two databases agree: both are copied as they were at one moment, at which nobody could write to Stoker's own.
Whatever Temporal had seen done by then has its rows in the copy, and whatever it had not is done again after the
restore, as after a crash. Writers wait for that moment only: SQLite keeps what a reader began with (WAL).

What is not copied makes itself anew: engines' states and logs, headers that were read, the identities of processes.
"""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from sqlalchemy.engine import make_url

from entrypoints.folder_lock import FolderInUseError, locked
from stoker.settings import Settings
from stoker.storage.migrate import known_revisions
from stoker.version import VERSION

DATABASE, TEMPORAL, MANIFEST = "stoker.db", "temporal.db", "backup.json"
SECRETS = ("server-secret", "join-token", "admin-key")

LOCK_WITHIN_SECONDS = 30.0
_OF_NO_WORTH = {"lock", "logs", "cache", "metrics"}  # in a data folder: a restore may find them there


class BackupError(Exception):
    """It cannot be done; the message names the cause, `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class CopiedFile(BaseModel):
    """One file of a backup."""

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a backup says of itself, in `backup.json`."""

    format: int = 1
    stoker: str  # the version that made it
    tables: str  # the database's revision
    made_at: datetime
    files: dict[str, CopiedFile]


def back_up(settings: Settings, target: Path, now: datetime) -> Manifest:
    """Writes the backup to the folder `target`, which must not be there, or be empty. Whole, or not at all.

    Raises BackupError, OSError.
    """
    database = _sqlite_file(settings)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BackupError(f"{target} is there already", "name a folder that is not: nothing is overwritten")
    sources = {DATABASE: database, TEMPORAL: settings.data_dir / TEMPORAL}
    with _appearing(target) as folder:
        with _at_one_moment({name: path for name, path in sources.items() if path.exists()}) as seen:
            for name, connection in seen.items():
                _copy_database(connection, sources[name], folder / name)
        for name in SECRETS:
            if (settings.data_dir / name).exists():
                _copy_file(settings.data_dir / name, folder / name)
        files = {path.name: _described(path) for path in sorted(folder.iterdir())}
        made = Manifest(stoker=VERSION, tables=_revision(folder / DATABASE), made_at=now, files=files)
        (folder / MANIFEST).write_text(made.model_dump_json(indent=2) + "\n")
    return made


def restore(settings: Settings, source: Path) -> Manifest:
    """Puts a backup into the settings' data folder, which must be empty. Raises BackupError, OSError."""
    if settings.database.url:
        raise BackupError(
            "this configuration names a database of its own, and a backup is restored into the data folder",
            "unset STOKER_DATABASE__URL, or see docs/backup.md for PostgreSQL",
        )
    made = _checked(source)
    try:
        with locked(settings.data_dir):
            there = sorted({path.name for path in settings.data_dir.iterdir()} - _OF_NO_WORTH)
            if there:
                raise BackupError(
                    f"the data folder {settings.data_dir} is not empty: {', '.join(there[:5])}",
                    "move it away first, or choose another with --data-dir",
                )
            try:
                for name in made.files:
                    _copy_file(source / name, settings.data_dir / name)
            except OSError:
                for name in made.files:
                    (settings.data_dir / name).unlink(missing_ok=True)
                raise
    except FolderInUseError as error:
        raise BackupError(f"a `stoker up` runs on this data folder ({error})", "stop it first") from error
    return made


def _sqlite_file(settings: Settings) -> Path:
    url = make_url(settings.database_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        raise BackupError(
            f"the database is {url.get_backend_name()}, and this backs up SQLite", "see docs/backup.md for PostgreSQL"
        )
    path = Path(url.database)
    if not path.is_file():
        raise BackupError(f"there is no database at {path}", "name the data folder: --data-dir, or STOKER_DATA_DIR")
    return path


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A folder for this user alone that becomes `target` at the end, and nothing when that is not reached."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.part")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
        with suppress(FileNotFoundError):
            target.rmdir()
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _at_one_moment(databases: Mapping[str, Path]) -> Iterator[Mapping[str, sqlite3.Connection]]:
    """Connections that see their databases as they were while nobody could write to Stoker's own."""
    with ExitStack() as stack:
        seen = {name: stack.enter_context(_opened(path)) for name, path in databases.items()}
        with _opened(databases[DATABASE]) as writer:
            _execute(writer, "BEGIN IMMEDIATE", databases[DATABASE])
            for name, connection in seen.items():
                _execute(connection, "BEGIN", databases[name])
                _execute(connection, "SELECT count(*) FROM sqlite_master", databases[name])  # a view begins with a read
        yield seen


def _execute(connection: sqlite3.Connection, statement: str, path: Path) -> None:
    try:
        connection.execute(statement).fetchone()
    except sqlite3.DatabaseError as error:
        raise BackupError(f"{path} cannot be read: {error}") from error


def _opened(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(path, isolation_level=None, timeout=LOCK_WITHIN_SECONDS))


def _copy_database(seen: sqlite3.Connection, source: Path, target: Path) -> None:
    """The copy is checked."""
    target.touch(mode=0o600)
    with closing(sqlite3.connect(target)) as written:
        try:
            seen.backup(written)
            (found,) = written.execute("PRAGMA quick_check").fetchone()
        except sqlite3.DatabaseError as error:
            raise BackupError(f"{source} cannot be copied: {error}") from error
        if found != "ok":
            raise BackupError(f"{source} is damaged: {found}")
        written.execute(
            "PRAGMA journal_mode=DELETE"
        )  # one file, whole without a log beside it; its user sets WAL again


def _copy_file(source: Path, target: Path) -> None:
    target.touch(mode=0o600)
    shutil.copyfile(source, target)


def _revision(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        row: Any = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0])


def _described(path: Path) -> CopiedFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return CopiedFile(bytes=path.stat().st_size, sha256=digest)


def _checked(source: Path) -> Manifest:
    try:
        made = Manifest.model_validate(json.loads((source / MANIFEST).read_text()))
    except (OSError, ValueError, ValidationError) as error:
        raise BackupError(f"{source} is no backup: its {MANIFEST} cannot be read ({error})") from error
    if made.format != 1 or made.tables not in known_revisions():
        raise BackupError(
            f"{source} was made by Stoker {made.stoker}; this one, {VERSION}, does not know its tables ({made.tables})",
            f"install Stoker {made.stoker} or newer",
        )
    allowed = {DATABASE, TEMPORAL, *SECRETS}
    for name, copied in made.files.items():
        if name not in allowed:
            raise BackupError(f"{source} names a file that is none of Stoker's: {name}")
        path = source / name
        if not path.is_file() or _described(path) != copied:
            raise BackupError(f"{path} is missing or was changed since the backup was made")
    return made
