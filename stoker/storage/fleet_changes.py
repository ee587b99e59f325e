"""Marks what changed in the fleet, so that those who keep it in memory read that alone (see `fleet_cache`)."""

import secrets
from collections.abc import Iterable

from sqlalchemy import bindparam, func, select
from sqlmodel import Session

from stoker.domain.base import WorkerName
from stoker.storage.engine import INSERTS, Insert
from stoker.storage.tables import FleetChangeRow, table_of

_LARGEST_STEP = 1 << 20
"""Versions grow by random steps: two histories that go on from one backup do not give the same numbers."""

_TABLE = table_of(FleetChangeRow)


def _marking(insert: Insert) -> Insert:
    last = select(func.coalesce(func.max(_TABLE.c.version), 0)).scalar_subquery()
    marking = insert.values(worker=bindparam("name"), version=last + bindparam("step"))
    return marking.on_conflict_do_update(index_elements=["worker"], set_={"version": marking.excluded.version})


_MARKING = {dialect: _marking(insert(_TABLE)) for dialect, insert in INSERTS.items()}


def mark_changed(session: Session, workers: Iterable[WorkerName]) -> None:
    """Gives each of `workers` a version above all: its claims or its standing changed. Under the claiming lock only."""
    names = [{"name": name, "step": secrets.randbelow(_LARGEST_STEP) + 1} for name in sorted(set(workers))]
    if names:
        session.execute(_MARKING[session.get_bind().dialect.name], names)
