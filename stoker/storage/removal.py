"""Takes a worker out of the cluster: its row with all secrets, and whatever else bears its name."""

from datetime import datetime

from sqlalchemy import delete, or_, select
from sqlmodel import Session, col

from stoker.certificates import worker_holder
from stoker.domain.base import InstanceId, Value, WorkerName
from stoker.storage.certificates import Certificates
from stoker.storage.engine import take_claiming_lock
from stoker.storage.fleet_changes import mark_changed
from stoker.storage.held import IS_HELD
from stoker.storage.tables import ClaimRow, FleetChangeRow, JoinTokenRow, WorkerLinkRow, WorkerRow
from stoker.storage.workers import Workers

KEPT_VERSIONS = 1000
"""Of removed workers. Who keeps the fleet in memory learns of a removal by its version, or within a second when it
compares all of them: so many are not removed within a second."""


class Removed(Value):
    """A worker that is no more; who held something of it, and how many of its certificates held until now."""

    instances: tuple[InstanceId, ...]
    certificates: int


class StillInUse(Value):
    """Nothing was removed: these instances hold something of the worker."""

    instances: tuple[InstanceId, ...]


def holders_of(session: Session, name: WorkerName) -> tuple[InstanceId, ...]:
    """The instances that hold something of the worker, by id. What is ending there is of no use to anybody."""
    held = select(col(ClaimRow.instance_id)).where(col(ClaimRow.worker) == name, IS_HELD).distinct()
    return tuple(sorted(session.execute(held).scalars()))


def remove_worker(session: Session, now: datetime, name: WorkerName, *, force: bool) -> Removed | StillInUse | None:
    """Removes the worker and revokes its certificates; None where there is none, StillInUse where it holds claims.

    With `force` the claims on it go too: to be done after their instances were told to go on elsewhere, and while the
    worker is cordoned. Takes the claiming lock; to come before anything else in its transaction. What must outlive the
    worker, so that others learn of its end, is its version in `fleet_change`, and its revoked certificates until they
    expire.
    """
    take_claiming_lock(session)
    if not Workers(session, now).hold(name):  # from here on nobody gives it another certificate
        return None
    instances = holders_of(session, name)
    if instances and not force:
        return StillInUse(instances=instances)
    certificates = Certificates(session, now).revoke(worker_holder(name))
    for gone in (
        delete(ClaimRow).where(col(ClaimRow.worker) == name),
        delete(WorkerLinkRow).where(or_(col(WorkerLinkRow.worker) == name, col(WorkerLinkRow.peer) == name)),
        delete(JoinTokenRow).where(col(JoinTokenRow.used_by) == name),
        delete(WorkerRow).where(col(WorkerRow.name) == name),
    ):
        session.execute(gone)
    mark_changed(session, [name])
    _forget_older(session)
    return Removed(instances=instances, certificates=certificates)


def was_removed(session: Session, name: WorkerName) -> bool:
    """Whether there was such a worker, and it was removed: one of the last KEPT_VERSIONS, however long ago."""
    return session.get(WorkerRow, name) is None and session.get(FleetChangeRow, name) is not None


def _forget_older(session: Session) -> None:
    """The versions of all but the last KEPT_VERSIONS workers that were removed: whoever knows them reads all anew.

    This removal's own is above all others, and stays: versions never go back.
    """
    known, claimed = select(col(WorkerRow.name)), select(col(ClaimRow.worker))
    gone = (col(FleetChangeRow.worker).not_in(known), col(FleetChangeRow.worker).not_in(claimed))
    by_age = select(col(FleetChangeRow.version)).where(*gone).order_by(col(FleetChangeRow.version).desc())
    oldest = session.execute(by_age.offset(KEPT_VERSIONS - 1).limit(1)).scalar()
    if oldest is not None:
        session.execute(delete(FleetChangeRow).where(*gone, col(FleetChangeRow.version) < oldest))
