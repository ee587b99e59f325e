"""The claiming transaction: lock, learn what changed, decide by the pure `place()`, write the claims, commit.

Nothing else in Stoker claims memory, so that two placements never see the same free bytes.
"""

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import and_, bindparam, case, delete, exists, literal, not_, null, select
from sqlmodel import Session

from stoker.domain.base import InstanceId, WorkerName
from stoker.domain.claims import Claim
from stoker.domain.deployments import DeploymentSpec, InstanceState
from stoker.domain.placement.fleet import Fleet
from stoker.domain.placement.place import claims_of, fits_instead, place, placed, wakeable
from stoker.domain.placement.reservations import PENDING_HOLD_SECONDS, Reservations, Waiting, holders
from stoker.domain.placement.types import Placement, PlacementRequest, Unplaceable
from stoker.domain.reports import HeldIncarnation
from stoker.domain.workers import WorkerState
from stoker.storage.engine import Database, await_claiming, sent_together
from stoker.storage.fleet_cache import FleetCache
from stoker.storage.fleet_changes import mark_changed
from stoker.storage.held import claims_version, give_up, remove_over
from stoker.storage.instances import Instances
from stoker.storage.pending import PendingRequests
from stoker.storage.tables import ClaimRow, DeploymentRow, InstanceRow, table_of
from stoker.storage.workers import Workers

_CLAIMS, _INSTANCES, _DEPLOYMENTS = table_of(ClaimRow), table_of(InstanceRow), table_of(DeploymentRow)


class ClaimLedger:
    """Who holds what. Every call is one transaction; `clock` gives the moment in UTC.

    `pending_hold`: seconds after which one that waits reserves devices against younger ones. Threads take turns: the
    fleet that is kept in memory is one for all that claim, and another one for all that only read, which wait for no
    claiming transaction.
    """

    def __init__(
        self, database: Database, clock: Callable[[], datetime], *, pending_hold: float = PENDING_HOLD_SECONDS
    ) -> None:
        self._database, self._clock, self._pending_hold = database, clock, timedelta(seconds=pending_hold)
        self._turn, self._readers_turn = threading.Lock(), threading.Lock()
        self._fleet, self._pending = FleetCache(), PendingRequests()
        self._seen_fleet, self._seen_pending = FleetCache(), PendingRequests()  # by those that only read
        self._one_looks, self._next_looks = threading.Lock(), threading.Lock()  # for those that fit: see `wakeable`

    def place(self, request: PlacementRequest) -> Placement | Unplaceable:
        """Claims a place for one incarnation, or says why there is none (the instance is then pending).

        Asked again by an incarnation that holds its claims, the answer is the same and nothing is claimed twice.
        """
        with self._claiming() as (session, now):
            asker = _asker(session, request, now - self._pending_hold)
            if asker.held is not None:
                return asker.held
            fleet = self._fleet.fleet(session, now)
            held_for = self._holders(session, request, asker, now) if asker.elders else ()
            holds = asker.pending_since is not None and now - asker.pending_since >= self._pending_hold
            outcome: Placement | Unplaceable | None = placed(fleet, request, Reservations(fleet).of(held_for))
            if outcome is None:  # said from what is known now only: nobody would ask again for long
                fresh = self._fleet.fleet(session, now, fresh_reports=True)
                outcome = place(fresh, request, held_for, holds=holds)
                if isinstance(outcome, Unplaceable) and (others := _of_other_generations(session, request)):
                    instead = fits_instead(fresh, request, others, held_for)
                    outcome = outcome.model_copy(update={"fits_instead": instead})
            with sent_together(session):
                if isinstance(outcome, Placement):
                    claims = claims_of(outcome, request.instance_id, request.incarnation)
                    session.execute(_CLAIMS.insert(), [claim.model_dump() for claim in claims])
                    mark_changed(session, (claim.worker for claim in claims))
                Instances(session, now).placed(request, outcome)
            return outcome

    def release(
        self, instance_id: InstanceId, incarnation: int | None = None, unconfirmed: Collection[WorkerName] = ()
    ) -> tuple[InstanceId, ...]:
        """Gives claims back (of every incarnation when None); returns the pending instances that fit now.

        Those on `unconfirmed` workers are ending from here on: a process may still be there, so nobody gets the bytes
        before `confirm_ended`. Those that are ending already stay so. Repeating it is harmless: who fits is worked out
        anew.
        """
        its = _CLAIMS.c.instance_id == instance_id
        if incarnation is not None:
            its = and_(its, _CLAIMS.c.incarnation == incarnation)
        with self._claiming() as (session, now):
            waiting = self._waiting(session, now, but=instance_id)
            fleet = self._fleet.fleet(session, now, fresh_reports=True) if waiting else Fleet({})
            kept = give_up(session, and_(its, _CLAIMS.c.worker.in_(unconfirmed))) if unconfirmed else ()
            ended = delete(_CLAIMS).where(its, not_(_CLAIMS.c.ending))
            claims = [Claim(**row._mapping) for row in session.execute(ended.returning(*_CLAIMS.c))]
            mark_changed(session, (*kept, *(claim.worker for claim in claims)))
            return self._fitting(fleet.minus(claims), waiting)

    def abandon(self, instance_id: InstanceId) -> None:
        """All claims of an instance are ending from here on: its workflow is over, and confirmed nothing."""
        with self._claiming() as (session, _):
            mark_changed(session, give_up(session, _CLAIMS.c.instance_id == instance_id))

    def confirm_ended(
        self, worker: WorkerName, running: Collection[HeldIncarnation], version: int
    ) -> tuple[InstanceId, ...]:
        """Gives back what is ending on the worker and not `running` there; returns the pending that fit now.

        `version`: of the answer that the worker had when it looked at what runs. Where the claims on it have changed
        since, nothing is given back: the report may be older than what it would confirm. The next one will do.
        """
        with self._claiming() as (session, now):
            if claims_version(session, worker) != version:
                return ()
            waiting = self._waiting(session, now)
            fleet = self._fleet.fleet(session, now, fresh_reports=True) if waiting else Fleet({})
            claims = remove_over(session, worker, running)
            mark_changed(session, (claim.worker for claim in claims))
            return self._fitting(fleet.minus(claims), waiting)

    def wakeable(self) -> tuple[InstanceId, ...]:
        """The pending instances that fit now, for when capacity was added rather than given back.

        At most one looks at a time and one more waits to: what is called meanwhile gets nothing, at once, since the one
        that waits will see all that is committed by then.
        """
        if not self._next_looks.acquire(blocking=False):
            return ()
        with ExitStack() as next_looks:
            next_looks.callback(self._next_looks.release)
            with self._one_looks:
                next_looks.close()
                if not self._anybody_waits():
                    return ()
                with self._claiming() as (session, now):
                    waiting = self._waiting(session, now)
                    fleet = self._fleet.fleet(session, now, fresh_reports=True) if waiting else Fleet({})
                    return self._fitting(fleet, waiting)

    def _anybody_waits(self) -> bool:
        """Asked beside the claiming lock, and after those that have it: one of them may be about to wait."""
        with self._database.read() as session:
            await_claiming(session)
            return bool(session.execute(_ANYBODY_WAITS).scalar_one())

    def explain(self, instance_id: InstanceId) -> Unplaceable | None:
        """Why that instance waits, as of now; None where it does not, or would fit. Claims nothing."""
        with self._readers_turn, self._database.read() as session:
            now = self._clock()
            waiting = self._seen_pending.waiting(session, now)
            one = next((one for one in waiting if one.request.instance_id == instance_id), None)
            if one is None:
                return None
            hold = self._pending_hold.total_seconds()
            elders = holders(waiting, one.priority, one.waited_seconds, hold_seconds=hold)
            fleet = self._seen_fleet.fleet(session, now, fresh_reports=True)
        outcome = place(fleet, one.request, elders, holds=one.waited_seconds >= hold)
        return outcome if isinstance(outcome, Unplaceable) else None

    def cordon(self, name: WorkerName) -> bool:
        """From here on the worker gets nothing new; False when there is no such worker."""
        with self._claiming() as (session, now):
            return Workers(session, now).cordon(name, True)

    def drain(self, name: WorkerName) -> bool:
        """From here on the worker gets nothing new, and what it has is to move; False when there is no such worker."""
        with self._claiming() as (session, now):
            return Workers(session, now).set_draining(name, True)

    def uncordon(self, name: WorkerName) -> tuple[InstanceId, ...] | None:
        """Ends cordon and draining; returns the pending instances that fit now, None when there is no such worker."""
        with self._claiming() as (session, now):
            waiting = self._waiting(session, now)
            fleet = self._fleet.fleet(session, now, fresh_reports=True) if waiting else Fleet({})
            if not Workers(session, now).cordon(name, False):
                return None
            if (host := fleet.hosts.get(name)) is not None and host.worker.state is not WorkerState.UNREACHABLE:
                ready = host.worker.model_copy(update={"state": WorkerState.READY})
                fleet = fleet.with_worker(ready, host.claimed)
            return self._fitting(fleet, waiting)

    def fleet(self) -> Fleet:
        """All workers with the room on their devices now. Claims nothing."""
        with self._readers_turn, self._database.read() as session:
            return self._seen_fleet.fleet(session, self._clock(), fresh_reports=True)

    def waiting(self) -> tuple[Waiting, ...]:
        """Those who wait for room now, the oldest first."""
        with self._readers_turn, self._database.read() as session:
            return self._seen_pending.waiting(session, self._clock())

    def ready_workers(self, spec: DeploymentSpec) -> tuple[WorkerName, ...]:
        """Workers that are there and that the spec's selector and devices admit."""
        chosen = {worker for worker, _ in spec.devices}
        return tuple(
            name
            for name, host in self.fleet().hosts.items()
            if host.worker.state is not WorkerState.UNREACHABLE
            and host.worker.matches(spec.worker_selector)
            and (not chosen or name in chosen)
        )

    @contextmanager
    def _claiming(self) -> Iterator[tuple[Session, datetime]]:
        if self._fleet.reports_are_old:  # outside the lock: nobody need wait for it
            with self._turn, self._database.read() as session:
                if self._fleet.reports_are_old:  # still, after others had their turn
                    self._fleet.read_reports(session)
        with self._database.claiming(self._turn) as session:
            yield session, self._clock()

    def _waiting(self, session: Session, now: datetime, *, but: InstanceId = "") -> list[Waiting]:
        """Who waits. Not `but`, who just gives up a place: its row may still say that it waits."""
        return [one for one in self._pending.waiting(session, now) if one.request.instance_id != but]

    def _fitting(self, fleet: Fleet, waiting: list[Waiting]) -> tuple[InstanceId, ...]:
        return wakeable(fleet, waiting, hold_seconds=self._pending_hold.total_seconds()) if waiting else ()

    def _holders(
        self, session: Session, request: PlacementRequest, asker: "_Asker", now: datetime
    ) -> tuple[PlacementRequest, ...]:
        """Those who have waited so long that they hold devices against the one that asks."""
        waiting = self._pending.waiting(session, now, since=now - self._pending_hold)
        return holders(
            [one for one in waiting if one.request.instance_id != request.instance_id],
            asker.priority,
            (now - (asker.pending_since or now)).total_seconds(),
            hold_seconds=self._pending_hold.total_seconds(),
        )


class _Asker(NamedTuple):
    """What is known of the instance that wants a place."""

    held: Placement | None  # what this incarnation holds already
    pending_since: datetime | None
    priority: int  # its deployment's of today
    elders: bool  # whether anybody else has waited so long that he may hold devices


_HELD = exists().where(_CLAIMS.c.instance_id == bindparam("id"), _CLAIMS.c.incarnation == bindparam("incarnation"))
_IS_ITS_PLACE = and_(_INSTANCES.c.incarnation == bindparam("incarnation"), _HELD)
_OTHER = _INSTANCES.alias()
_ANYBODY_WAITS = select(exists().where(_INSTANCES.c.state == InstanceState.PENDING.value))
_ASKER = (
    select(
        case((_IS_ITS_PLACE, _INSTANCES.c.placement), else_=null()).label("held"),
        _INSTANCES.c.pending_since,
        _DEPLOYMENTS.c.priority,
        exists()
        .where(_OTHER.c.state == InstanceState.PENDING.value, _OTHER.c.pending_since <= bindparam("since"))
        .label("elders"),
    )
    .select_from(select(literal(1)).subquery())
    .join(_INSTANCES, _INSTANCES.c.id == bindparam("id"), isouter=True)
    .join(_DEPLOYMENTS, _DEPLOYMENTS.c.name == bindparam("deployment"), isouter=True)
)


def _asker(session: Session, request: PlacementRequest, since: datetime) -> _Asker:
    names = {"id": request.instance_id, "incarnation": request.incarnation, "deployment": request.spec.name}
    held, pending_since, priority, elders = session.execute(_ASKER, {**names, "since": since}).one()
    return _Asker(
        held=Placement.model_validate(held) if held is not None else None,
        pending_since=pending_since,
        priority=request.spec.priority if priority is None else priority,
        elders=elders,
    )


def _of_other_generations(session: Session, request: PlacementRequest) -> list[Claim]:
    """What its deployment's instances of other generations hold: they go, or it does."""
    others = select(*_CLAIMS.c).join(_INSTANCES, _INSTANCES.c.id == _CLAIMS.c.instance_id)
    others = others.where(_INSTANCES.c.deployment == request.spec.name, _INSTANCES.c.generation != request.generation)
    return [Claim(**row._mapping) for row in session.execute(others)]
