"""What the rows of a fleet say, and where they are wrong."""

from collections import Counter
from collections.abc import Collection, Mapping

from sqlmodel import Session, col, func, select

from stoker.domain.deployments import InstanceState
from stoker.storage.engine import Database
from stoker.storage.tables import ClaimRow, DeploymentRow, InstanceRow

Engines = Mapping[str, Collection[tuple[str, int]]]
"""By host: the engines that are there, as instance and incarnation."""


class FleetRows:
    """The rows of instances that take one GPU each."""

    def __init__(self, database: Database, gpu_bytes: int) -> None:
        self._database, self._gpu_bytes = database, gpu_bytes

    def running(self, *, but_on: Collection[str]) -> int:
        """Instances that run, those on some hosts left out."""
        run = select(func.count()).where(col(InstanceRow.state) == InstanceState.RUNNING.value)
        with self._database.read() as session:
            return session.exec(run.where(col(InstanceRow.worker).not_in(but_on))).one()

    def not_running(self, *, but_on: Collection[str]) -> dict[str, str]:
        """Those that are there and do not count as running, by id, with what their rows say."""
        with self._database.read() as session:
            rows = session.execute(select(InstanceRow.id, InstanceRow.state, InstanceRow.worker, InstanceRow.message))
            return {
                one: f"{state}: {message}"
                for one, state, worker, message in rows
                if state != InstanceState.RUNNING.value or worker in but_on
            }

    def deployments(self) -> list[str]:
        """All by name."""
        with self._database.read() as session:
            return list(session.exec(select(DeploymentRow.name)))

    def instances(self) -> list[str]:
        """All by id."""
        with self._database.read() as session:
            return list(session.exec(select(InstanceRow.id)))

    def wrong(self) -> list[str]:
        """What is wrong by the rows alone. A claim that is `ending` is right as long as its host was not heard of."""
        with self._database.read() as session:
            return [*self._booked_twice(session), *self._not_as_it_runs(session)]

    def unlike(self, engines: Engines) -> list[str]:
        """Where the rows are unlike what runs on those hosts."""
        with self._database.read() as session:
            rows = session.exec(select(InstanceRow)).all()
        known = {(row.id, row.incarnation): row.worker for row in rows if row.state == InstanceState.RUNNING.value}
        there = {engine: host for host, found in engines.items() for engine in found}
        problems = [f"{one} is not on {host}" for one, host in known.items() if there.get(one) != host]
        problems += [f"{one} is left over on {host}" for one, host in there.items() if one not in known]
        twice = Counter(engine for found in engines.values() for engine in found)
        return problems + [f"{one} is on {count} hosts" for one, count in twice.items() if count > 1]

    def _booked_twice(self, session: Session) -> list[str]:
        booked: Counter[tuple[str, str]] = Counter()
        for claim in session.exec(select(ClaimRow).where(ClaimRow.device != "cpu")):
            booked[claim.worker, claim.device] += claim.size
        return [f"{place} has {size} bytes booked" for place, size in booked.items() if size > self._gpu_bytes]

    def _not_as_it_runs(self, session: Session) -> list[str]:
        holds = {
            (claim.instance_id, claim.incarnation, claim.worker)
            for claim in session.exec(select(ClaimRow))
            if not claim.ending
        }
        runs = {
            (row.id, row.incarnation, row.worker)
            for row in session.exec(select(InstanceRow))
            if row.state == InstanceState.RUNNING.value
        }
        return [f"{one} holds but does not run" for one in holds - runs] + [
            f"{one} holds nothing" for one in runs - holds
        ]
