"""Which claims are rightly held, and which only wait for their processes to be confirmed gone."""

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import ColumnElement, delete, exists, not_, or_, select, tuple_, update
from sqlmodel import Session

from stoker.domain.base import WorkerName
from stoker.domain.claims import Claim
from stoker.domain.reports import HeldIncarnation, WorkerReport
from stoker.storage.tables import ClaimRow, FleetChangeRow, InstanceRow, table_of

_CLAIMS, _INSTANCES, _CHANGED = table_of(ClaimRow), table_of(InstanceRow).c, table_of(FleetChangeRow).c

_IS_ENDING = or_(
    _CLAIMS.c.ending,
    not_(exists().where(_INSTANCES.id == _CLAIMS.c.instance_id, _INSTANCES.incarnation == _CLAIMS.c.incarnation)),
)
IS_HELD = not_(_IS_ENDING)
"""Of a claim: its incarnation is its instance's present one, and has not given it up.

Any other is ending: nobody gets its bytes before its worker says that the process is gone, and nothing of it may run.
"""


class Standing(NamedTuple):
    """How a worker stands by the rows when it reports.

    `confirms`: what runs there, where that shows that something is over: see `ClaimLedger.confirm_ended`.
    """

    held: tuple[HeldIncarnation, ...]
    version: int
    confirms: tuple[HeldIncarnation, ...] | None


def stands(session: Session, report: WorkerReport) -> Standing:
    """What the report's worker may run, and what its report confirms to be over."""
    worker = report.worker.name
    version = claims_version(session, worker)  # first: what is read next may be younger, and never older
    confirms = report.running if report.answered == version else None
    if confirms is not None and not is_any_over(session, worker, confirms):
        confirms = None
    return Standing(held=held_on(session, worker), version=version, confirms=confirms)


def held_on(session: Session, worker: WorkerName) -> tuple[HeldIncarnation, ...]:
    """The incarnations that may run on the worker."""
    held = select(_CLAIMS.c.instance_id, _CLAIMS.c.incarnation).distinct().where(_CLAIMS.c.worker == worker, IS_HELD)
    rows = session.execute(held.order_by(_CLAIMS.c.instance_id, _CLAIMS.c.incarnation))
    return tuple(HeldIncarnation(instance_id=instance_id, incarnation=number) for instance_id, number in rows)


def claims_version(session: Session, worker: WorkerName) -> int:
    """Another number after every change of the claims on the worker. Read it before what it is to be held against."""
    return session.execute(select(_CHANGED.version).where(_CHANGED.worker == worker)).scalar() or 0


def give_up(session: Session, which: ColumnElement[bool]) -> tuple[WorkerName, ...]:
    """Marks claims as ending; on which workers some were not before. In the claiming transaction, which must mark these
    as changed."""
    given = update(_CLAIMS).where(which, not_(_CLAIMS.c.ending)).values(ending=True).returning(_CLAIMS.c.worker)
    return tuple(sorted(set(session.execute(given).scalars())))


def is_any_over(session: Session, worker: WorkerName, running: Collection[HeldIncarnation]) -> bool:
    """Whether claims on the worker are ending whose processes it does not have any more."""
    return bool(session.execute(select(exists().where(*_over(worker, running)))).scalar())


def remove_over(session: Session, worker: WorkerName, running: Collection[HeldIncarnation]) -> tuple[Claim, ...]:
    """Removes them; what was removed. In the claiming transaction, which must mark the worker as changed."""
    removed = session.execute(delete(_CLAIMS).where(*_over(worker, running)).returning(*_CLAIMS.c))
    return tuple(Claim(**row._mapping) for row in removed)


def _over(worker: WorkerName, running: Collection[HeldIncarnation]) -> tuple[ColumnElement[bool], ...]:
    there = [(one.instance_id, one.incarnation) for one in running]
    is_gone = not_(tuple_(_CLAIMS.c.instance_id, _CLAIMS.c.incarnation).in_(there))
    return (_CLAIMS.c.worker == worker, _IS_ENDING, is_gone)
