"""The claiming transaction: lock, rebuild the snapshot, decide by the pure `place()`, write the claims, commit.

Nothing else in Stoker claims memory, so that two placements never see the same free bytes.
"""

from collections.abc import Callable
from datetime import datetime

from sqlmodel import Session, col, delete, select

from stoker.domain.base import InstanceId, WorkerName
from stoker.domain.claims import Claim, Snapshot
from stoker.domain.deployments import DeploymentSpec
from stoker.domain.placement.place import claims_of, place, wakeable
from stoker.domain.placement.types import Placement, PlacementRequest, Unplaceable
from stoker.domain.workers import WorkerState
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.tables import ClaimRow
from stoker.storage.workers import Workers


class ClaimLedger:
    """Who holds what. Every call is one transaction; `clock` gives the moment in UTC."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database, self._clock = database, clock

    def place(self, request: PlacementRequest) -> Placement | Unplaceable:
        """Claims a place for one incarnation, or says why there is none (the instance is then pending).

        Asked again by an incarnation that holds its claims, the answer is the same and nothing is claimed twice.
        """
        with self._database.claiming() as session:
            instances = Instances(session, self._clock())
            held = instances.held_placement(request.instance_id, request.incarnation)
            if held is not None and _holds(session, request):
                return held
            outcome = place(self._snapshot(session), request)
            if isinstance(outcome, Placement):
                for claim in claims_of(outcome, request.instance_id, request.incarnation):
                    session.add(ClaimRow(**claim.model_dump()))
            instances.placed(request, outcome)
            return outcome

    def release(self, instance_id: InstanceId, incarnation: int | None = None) -> tuple[InstanceId, ...]:
        """Gives claims back (of every incarnation when None); returns the pending instances that fit now.

        Repeating it is harmless: who fits is worked out anew.
        """
        with self._database.claiming() as session:
            ended = delete(ClaimRow).where(col(ClaimRow.instance_id) == instance_id)
            if incarnation is not None:
                ended = ended.where(col(ClaimRow.incarnation) == incarnation)
            session.exec(ended)
            return self._wakeable(session, but=instance_id)

    def wakeable(self) -> tuple[InstanceId, ...]:
        """The pending instances that fit now, for when capacity was added rather than given back."""
        with self._database.claiming() as session:
            return self._wakeable(session)

    def _wakeable(self, session: Session, *, but: InstanceId = "") -> tuple[InstanceId, ...]:
        """Who fits now. Not `but`, who just gave up a place: its row may still say that it waits."""
        pending = [request for request in Instances(session, self._clock()).pending() if request.instance_id != but]
        return wakeable(self._snapshot(session), pending) if pending else ()

    def ready_workers(self, spec: DeploymentSpec) -> tuple[WorkerName, ...]:
        """Workers that are there and that the spec's selector and devices admit."""
        with self._database.read() as session:
            workers = [status.worker for status in Workers(session, self._clock()).all()]
        chosen = {worker for worker, _ in spec.devices}
        return tuple(
            worker.name
            for worker in workers
            if worker.state is not WorkerState.UNREACHABLE
            and worker.matches(spec.worker_selector)
            and (not chosen or worker.name in chosen)
        )

    def _snapshot(self, session: Session) -> Snapshot:
        statuses = Workers(session, self._clock()).all()
        claims: list[Claim] = [claim for status in statuses for claim in status.claims]
        return Snapshot.of((status.worker for status in statuses), claims)


def _holds(session: Session, request: PlacementRequest) -> bool:
    query = select(ClaimRow).where(
        ClaimRow.instance_id == request.instance_id, ClaimRow.incarnation == request.incarnation
    )
    return session.exec(query).first() is not None
