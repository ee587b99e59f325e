"""What is asked of deployments that demand scales: told by API processes, read by whoever scales."""

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlmodel import Session

from stoker.domain.base import DeploymentName
from stoker.domain.deployments import InstanceState
from stoker.domain.scaling import Demand, Hearings, Outlook, Rescale, Told, heard, is_autoscaled, looked, reason, target
from stoker.storage.engine import INSERTS, Database, commit_without_disk
from stoker.storage.known_rows import known_deployments
from stoker.storage.tables import DemandRow, InstanceRow, table_of

KEPT = timedelta(hours=1)
"""Rows of processes that are no more go after so long."""

LONGEST_STEP_SECONDS = 10.0
"""Time passes for a look only as far as it lies this close to the one before: what happened meanwhile nobody knows."""

_TABLE = table_of(DemandRow)
_TOLD = select(*(_TABLE.c[name] for name in Told._fields))
_INSTANCES = table_of(InstanceRow).c
_STATES = select(_INSTANCES.deployment, _INSTANCES.state).distinct()
_ON_THE_WAY = {InstanceState.PLACING, InstanceState.DOWNLOADING, InstanceState.STARTING}


def write_demand(session: Session, told: Iterable[Told], now: datetime) -> None:
    """Writes what one process tells. A crash may lose it: it is told again."""
    rows = [{**one._asdict(), "told_at": now} for one in told]
    if not rows:
        return
    commit_without_disk(session)
    insert = INSERTS[session.get_bind().dialect.name](_TABLE)
    changes = {name: insert.excluded[name] for name in ("busy", "asked", "beat", "told_at")}
    session.execute(insert.on_conflict_do_update(index_elements=["process", "deployment"], set_=changes), rows)


def forget_process(session: Session, process: str) -> None:
    """It ends, and has nothing in work."""
    session.execute(delete(_TABLE).where(_TABLE.c.process == process))


def forget_old(session: Session, now: datetime) -> None:
    """What was told KEPT ago and never since: that process is gone, or was asked nothing."""
    session.execute(delete(_TABLE).where(_TABLE.c.told_at < now - KEPT))


class DemandWatch:
    """One looker's view: what it has seen since it was made. One thread at a time.

    `clock` gives the moment in UTC, `monotonic` seconds that only grow.
    """

    def __init__(
        self, database: Database, clock: Callable[[], datetime], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database, self._clock, self._monotonic = database, clock, monotonic
        self._deployments = known_deployments()
        self._hearings: Hearings | None = None  # None: it has not looked yet
        self._outlooks: Mapping[DeploymentName, Outlook] = {}
        self._looked_at: float | None = None
        self._now = 0.0  # seconds that were watched

    def look(self) -> tuple[Rescale, ...]:
        """Reads what is asked and what is wanted; those that should be wanted otherwise.

        Also those that are asked and have no instance at all, whatever the row says of their number: it may be wrong.
        """
        with self._database.read() as session:
            scaled = [one for one in self._deployments.read(session) if is_autoscaled(one.spec) and not one.deleting]
            told = [Told(*row) for row in session.execute(_TOLD)]  # always: what is new is known by what was there
            states = _states(session) if scaled else {}
        now = self._monotonic()
        if self._looked_at is not None:
            self._now += min(now - self._looked_at, LONGEST_STEP_SECONDS)
        self._looked_at = now
        self._hearings, demands = heard(self._hearings, told, _starting(states), self._now)
        outlooks: dict[DeploymentName, Outlook] = {}
        found: list[Rescale] = []
        for one in scaled:
            name, count, demand = one.spec.name, one.wanted_replicas, demands.get(one.spec.name, Demand())
            outlooks[name] = outlook = looked(self._outlooks.get(name), one.spec, count, demand, self._now)
            wanted = target(outlook, one.spec)
            is_only_said = bool(count and demand.busy and name not in states)  # to a workflow that knows better
            if wanted != count or is_only_said:
                why = reason(count, wanted, demand, one.spec)
                found.append(Rescale(deployment=name, seen=count, replicas=wanted, reason=why))
        self._outlooks = outlooks
        return tuple(found)

    def tidy(self) -> None:
        """Removes what processes told that are no more."""
        with self._database.write() as session:
            forget_old(session, self._clock())


def _states(session: Session) -> Mapping[DeploymentName, set[str]]:
    """Those of each deployment's instances; without those that have none."""
    states: dict[DeploymentName, set[str]] = {}
    for deployment, state in session.execute(_STATES):
        states.setdefault(deployment, set()).add(state)
    return states


def _starting(states: Mapping[DeploymentName, set[str]]) -> list[DeploymentName]:
    """Deployments of which no instance runs, and one is about to."""
    return [name for name, of in states.items() if InstanceState.RUNNING not in of and of & _ON_THE_WAY]
