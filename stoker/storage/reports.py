"""A worker's report as the rows take it, in few statements: 200 workers send forty a second, and most say no news."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, bindparam, func, select
from sqlmodel import Session

from stoker.domain.base import WorkerName
from stoker.domain.claims import Claim, Snapshot
from stoker.domain.reports import HeldIncarnation, WorkerReport
from stoker.domain.workers import Worker, WorkerState
from stoker.storage.engine import commit_without_disk
from stoker.storage.files import Files
from stoker.storage.held import IS_HELD, Standing
from stoker.storage.tables import CertificateRow, ClaimRow, FleetChangeRow, WorkerRow, table_of
from stoker.storage.workers import Workers, state_of

_WORKERS, _CHANGES, _CLAIMS = table_of(WorkerRow), table_of(FleetChangeRow), table_of(ClaimRow)
_CERTIFICATES = table_of(CertificateRow).c

_REVOKED = (
    select(func.aggregate_strings(_CERTIFICATES.serial, ","))  # hexadecimal: there is no comma in one
    .where(_CERTIFICATES.revoked_at.is_not(None), _CERTIFICATES.expires_at > bindparam("now"))
    .scalar_subquery()
)
_KNOWN = (
    select(
        _WORKERS.c.name,
        _WORKERS.c.credential_hash,
        _WORKERS.c.report,
        _WORKERS.c.cordoned,
        _WORKERS.c.draining,
        _WORKERS.c.seen_at,
        func.coalesce(_CHANGES.c.version, 0).label("claims_version"),
        _REVOKED.label("revoked"),
    )
    .select_from(_WORKERS)
    .join(_CHANGES, _CHANGES.c.worker == _WORKERS.c.name, isouter=True)
    .where(_WORKERS.c.name == bindparam("name"))
)
_ITS_CLAIMS = (
    select(_CLAIMS.c.instance_id, _CLAIMS.c.incarnation, _CLAIMS.c.device, _CLAIMS.c.size, IS_HELD.label("is_held"))
    .where(_CLAIMS.c.worker == bindparam("name"))
    .order_by(_CLAIMS.c.instance_id, _CLAIMS.c.incarnation)
)


class Reporter(NamedTuple):
    """A worker's row as its report finds it, and what every answer says: `revoked` is as of `ReportAnswer`.

    `claims_version` is read before the claims: what is held against it may be younger, and never older.
    """

    name: WorkerName
    credential_hash: str
    report: dict[str, Any]  # a Worker value
    cordoned: bool
    draining: bool
    seen_at: datetime
    claims_version: int
    revoked: tuple[str, ...]

    def state(self, now: datetime) -> WorkerState:
        """The worker's, at that moment, if it reported no more."""
        return state_of(cordoned=self.cordoned, draining=self.draining, silent=now - self.seen_at)


class Taken(NamedTuple):
    """How the worker stands now that its report was taken.

    `gained_room`: something may fit now that did not before: it is back or changed, or a device has more free.
    """

    standing: Standing
    gained_room: bool


class Reports:
    """The reports of one session, which is a write transaction and has done nothing before."""

    def __init__(self, session: Session, now: datetime) -> None:
        """The transaction does not wait for the disk: what a crash loses of a report, the next one says again."""
        commit_without_disk(session)
        self._session, self._now = session, now

    def known(self, name: WorkerName) -> Reporter | None:
        """The worker that says that it reports, or None when it never joined, or was removed."""
        row = self._session.execute(_KNOWN, {"name": name, "now": self._now}).one_or_none()
        if row is None:
            return None
        serials = tuple(sorted(row.revoked.split(","))) if row.revoked else ()
        return Reporter(*row)._replace(revoked=serials)

    def take(self, known: Reporter, report: WorkerReport) -> Taken | None:
        """Keeps what the report says of the worker and its files; None when it was removed since it was looked at."""
        workers = Workers(self._session, self._now)
        if not workers.report(report.worker, settled=report.settled, before=known.report):
            return None
        if report.files is not None:
            Files(self._session, self._now).keep(known.name, report.files)
        claims = self._session.execute(_ITS_CLAIMS, {"name": known.name}).all()
        gained = self._state_changed(known, report) or _gained_room(known, report.worker, claims)
        return Taken(standing=_standing(known, report, claims), gained_room=gained)

    def _state_changed(self, known: Reporter, report: WorkerReport) -> bool:
        seen = known._replace(seen_at=self._now) if report.settled else known
        return known.state(self._now) is not seen.state(self._now)


def _standing(known: Reporter, report: WorkerReport, claims: Sequence[Row[Any]]) -> Standing:
    held = dict.fromkeys((claim.instance_id, claim.incarnation) for claim in claims if claim.is_held)
    ending = {(claim.instance_id, claim.incarnation) for claim in claims if not claim.is_held}
    confirms = report.running if report.answered == known.claims_version else None
    if confirms is not None and ending <= {(one.instance_id, one.incarnation) for one in confirms}:
        confirms = None  # nothing is over
    return Standing(
        held=tuple(HeldIncarnation(instance_id=instance_id, incarnation=number) for instance_id, number in held),
        version=known.claims_version,
        confirms=confirms,
    )


def _gained_room(known: Reporter, new: Worker, claims: Sequence[Row[Any]]) -> bool:
    old = Worker.model_validate(known.report)
    if old == new:
        return False
    if (old.labels, old.engine) != (new.labels, new.engine):
        return True
    had = Snapshot.of([old], (_claim(known.name, claim) for claim in claims))
    previous = {device.id: had.allocatable(old, device) for device in old.devices}
    return any(had.allocatable(new, device) > previous.get(device.id, 0) for device in new.devices)


def _claim(worker: WorkerName, row: Row[Any]) -> Claim:
    return Claim(
        instance_id=row.instance_id, incarnation=row.incarnation, worker=worker, device=row.device, size=row.size
    )
