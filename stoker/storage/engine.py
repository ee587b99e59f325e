"""One way to the database: read transactions, write transactions, and the one that holds the claiming lock."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import make_url
from sqlmodel import Session, create_engine

CLAIMING_LOCK = 0x53544F4B  # "STOK": the advisory lock's number on PostgreSQL


class Database:
    """A SQLite file or a PostgreSQL database, by its URL (`sqlite:///path`, `postgresql://user@host/name`).

    Sessions are synchronous: callers on an event loop run them in a thread.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            if parsed.database:
                Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine = create_engine(parsed, connect_args={"timeout": 30, "check_same_thread": False})
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            parsed = parsed.set(drivername="postgresql+psycopg")
            self.engine = create_engine(parsed, pool_pre_ping=True, pool_size=10, max_overflow=20)
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
    def claiming(self) -> Iterator[Session]:
        """A write transaction that no other claiming transaction overlaps, in any process."""
        with self.write() as session:
            if not self.is_sqlite:
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CLAIMING_LOCK})
            yield session

    def close(self) -> None:
        """Closes all connections."""
        self.engine.dispose()


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
