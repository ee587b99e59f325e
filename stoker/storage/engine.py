"""One way to the database: read transactions, write transactions, and the one that holds the claiming lock.

A commit waits for a disk, 0.3 to 4 ms on those that were measured. Two kinds of transactions on PostgreSQL end without:

- One whose loss loses nothing (`commit_without_disk`): a worker's report, which the next one repeats.
- The claiming transaction. The lock is given back as it commits, not when that is on disk; then `claiming` waits for
  the disk, without the lock, so that nobody is answered before (`_wait_for_disk`). Commits reach the disk in their
  order: whatever was decided from this one is not kept by a crash that loses this one, and so no byte is given twice.
  One who was not answered asks again, finds its claims, and is answered when they are on disk. What a process remembers
  of claims that a crash took back is forgotten with its connection: see `learned_before`.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection, Table, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, create_engine

CLAIMING_LOCK = 0x53544F4B  # "STOK": the advisory lock's number on PostgreSQL

IDLE_SECONDS = 15
"""A process that stands still this long within a transaction loses it to PostgreSQL, with all its locks: one that is
frozen, or whose host is gone, would else hold up all others for hours."""

_DEADLINES = {
    "connect_timeout": 10,  # seconds
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 4,
    "tcp_user_timeout": 15_000,  # milliseconds
}
"""After these a database's host that is gone without a word is given up. What its URL says comes first."""

_SERVERS_DEADLINES = {
    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
    "tcp_keepalives_idle": "5",  # seconds; none of these on a Unix socket
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "4",
}
"""The server's, for our sessions."""

_OPENED_AT = "stoker_opened_at"  # monotonic seconds, of each connection
_WITHOUT_DISK = "set_config('synchronous_commit', 'off', true)"  # until the transaction ends
_LOCK = text("SELECT pg_advisory_xact_lock(:key)")
_NOT_WAITING = text(f"SELECT {_WITHOUT_DISK}")
_AFTER_CLAIMING = text("SELECT pg_advisory_xact_lock_shared(:key)")
_CLAIMING = text(f"SELECT pg_advisory_xact_lock(:key), {_WITHOUT_DISK}")

Insert = postgresql.Insert | sqlite.Insert
INSERTS: dict[str, Callable[[Table], Insert]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
"""Inserts that may update instead, by dialect: the two say it alike."""


def database_name(url: str) -> str:
    """What people call it: kind, name and host, and neither user nor password. Raises ArgumentError: no such URL."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return f"SQLite, {parsed.database}"
    return f"PostgreSQL, {parsed.database}" + (f" on {parsed.host}" if parsed.host else "")


class JsonText(str):
    """JSON already: a value for a JSON column that is written as it is."""

    __slots__ = ()


class Database:
    """A SQLite file or a PostgreSQL database, by its URL (`sqlite:///path`, `postgresql://user@host/name`).

    SQLite survives the death of any process at once; a power cut may take back its last moments, as it takes back those
    of the Temporal beside it, and every engine of that machine.

    Sessions are synchronous: callers on an event loop run them in a thread.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            if parsed.database:
                _make_private(Path(parsed.database))
            self.engine = create_engine(
                parsed,
                connect_args={"timeout": 30, "check_same_thread": False},
                json_serializer=_to_json,
                hide_parameters=True,  # errors are logged, and values may be secrets
            )
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            parsed = parsed.set(drivername="postgresql+psycopg")
            self.engine = create_engine(
                parsed,
                connect_args={name: value for name, value in _DEADLINES.items() if name not in parsed.query},
                isolation_level="READ COMMITTED",  # whatever the database's default: who had to wait sees what came
                pool_pre_ping=True,
                pool_size=10,
                max_overflow=20,
                json_serializer=_to_json,
                hide_parameters=True,
            )
            event.listen(self.engine, "connect", _configure_postgresql)
            event.listen(self.engine, "handle_error", _hide_detail)
        event.listen(self.engine, "connect", _note_when)
        self._writer = self.engine.execution_options(stoker_writes=True)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that changes nothing."""
        with Session(self.engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is committed at the end, or rolled back by an exception."""
        with Session(self._writer) as session, session.begin():
            yield session

    @contextmanager
    def claiming(self, turn: AbstractContextManager[object] | None = None) -> Iterator[Session]:
        """A write transaction that no other claiming transaction overlaps, in any process.

        `turn` is held as long as it runs, and no longer: at the end it is committed and on disk.
        """
        with ExitStack() as others_wait:
            others_wait.enter_context(turn or nullcontext())
            with self._writer.connect() as connection:
                with Session(connection) as session, session.begin():
                    if self.is_sqlite:
                        session.connection()  # begins, and a writer has the lock then
                    else:
                        with sent_together(session):
                            session.execute(_CLAIMING, {"key": CLAIMING_LOCK})
                    yield session
                others_wait.close()
                if not self.is_sqlite:
                    _wait_for_disk(connection)

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()


def take_claiming_lock(session: Session) -> None:
    """Makes a write transaction a claiming one, to its end. Taking it again is free; on SQLite a writer has it anyway.

    It comes before anything that the transaction writes: who holds it may wait for rows, never the other way round.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_LOCK, {"key": CLAIMING_LOCK})


def await_claiming(session: Session) -> None:
    """What the claiming transaction that is under way writes, if one is, the session's next statement reads.

    On SQLite none is under way while another transaction writes: what was written before it began, it has read.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_AFTER_CLAIMING, {"key": CLAIMING_LOCK})


def commit_without_disk(session: Session) -> None:
    """The transaction's commit will not wait for the disk: a crash of PostgreSQL within a second may lose it.

    SQLite's never does: in WAL mode it syncs at checkpoints.
    """
    if session.get_bind().dialect.name == "postgresql":
        with sent_together(session):  # with BEGIN, where it is the first; not `session.execute`, which would flush, too
            session.connection().execute(_NOT_WAITING)


def _wait_for_disk(connection: Connection) -> None:
    """All that was committed before is on disk, as far as the server's own `synchronous_commit` goes, or it raises.

    A commit that writes nothing does not wait: this one writes a message into the log that nobody reads.
    """
    driver: Any = connection.connection.driver_connection
    try:
        driver.autocommit = True  # one statement, which is a transaction: one round trip
        driver.execute("SELECT pg_logical_emit_message(true, 'stoker', '')")
        driver.autocommit = False
    except psycopg.Error as error:
        connection.invalidate()
        raise DBAPIError.instance("waiting for the disk", None, error, psycopg.Error) from error


def learned_before(session: Session, moment: float) -> bool:
    """Whether what was read at `moment` (monotonic seconds) may still be held against the session's database.

    A server that crashed, and may have lost what others had read by then, has lost all connections too: this one, if
    it is older than `moment`, shows that it did not.
    """
    opened: float = session.connection().info[_OPENED_AT]
    return opened <= moment


def _note_when(_: object, record: Any) -> None:
    record.info[_OPENED_AT] = time.monotonic()


def _to_json(value: Any) -> str:
    return value if isinstance(value, JsonText) else json.dumps(value)


@contextmanager
def sent_together(session: Session) -> Iterator[None]:
    """Statements whose answers nobody reads go to PostgreSQL in one round trip; SQLite has none to save.

    An error of any of them is raised at the end.
    """
    if session.get_bind().dialect.name != "postgresql":
        yield
        return
    driver: Any = session.connection().connection.driver_connection
    try:
        with driver.pipeline():
            yield
    except psycopg.Error as error:  # the driver's own, since SQLAlchemy was not there when the answers came
        raise DBAPIError.instance("statements sent together", None, error, psycopg.Error) from error


def _make_private(path: Path) -> None:
    """Secrets lie in it: a new one is for its user alone, and so are the files that SQLite puts beside it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)


def _configure_postgresql(connection: Any, _: object) -> None:
    calls = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _SERVERS_DEADLINES.items())
    connection.autocommit = True  # one round trip, and it outlives what is rolled back
    connection.execute(f"SELECT {calls}")
    connection.autocommit = False


def _hide_detail(context: ExceptionContext) -> None:
    """PostgreSQL's detail to an error repeats the row that it refused, with all its values."""
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None and error.args:
            error.args = (str(error.args[0]).partition("\nDETAIL:")[0], *error.args[1:])


def _configure_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver must not begin by itself: _begin_sqlite says how
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes the lock at once: a reader that turns writer half-way fails with SQLITE_BUSY and no waiting.
    writes = connection.get_execution_options().get("stoker_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
