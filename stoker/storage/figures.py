"""What monitoring wants of the rows and the fleet does not tell: sums that the database makes, in three statements."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, select
from sqlmodel import Session

from stoker.domain.base import DeploymentName, WorkerName
from stoker.domain.deployments import InstanceState
from stoker.storage.held import IS_HELD
from stoker.storage.tables import ClaimRow, InstanceRow, WorkerRow, table_of

_WORKERS, _CLAIMS, _INSTANCES = table_of(WorkerRow).c, table_of(ClaimRow).c, table_of(InstanceRow).c
_REPORTED = select(_WORKERS.name, _WORKERS.seen_at).order_by(_WORKERS.name)
_HELD = IS_HELD.label("held")
_COUNTED = select(_CLAIMS.worker, _HELD, func.count()).group_by(_CLAIMS.worker, _HELD).order_by(_CLAIMS.worker)
_WAITING = (
    select(_INSTANCES.deployment, func.min(_INSTANCES.pending_since))
    .where(_INSTANCES.state == InstanceState.PENDING.value, _INSTANCES.pending_since.is_not(None))
    .group_by(_INSTANCES.deployment)
    .order_by(_INSTANCES.deployment)
)


class Figures(NamedTuple):
    """The rows at one moment."""

    reported_at: Mapping[WorkerName, datetime] = {}  # when each worker's last report was taken
    held: Mapping[WorkerName, int] = {}  # claims on each worker
    ending: Mapping[WorkerName, int] = {}  # those of them whose process is not confirmed gone, and nobody's any more
    pending_since: Mapping[DeploymentName, datetime] = {}  # of each deployment that waits: its oldest instance


def read_figures(session: Session) -> Figures:
    """The figures as this transaction finds them."""
    counted = session.execute(_COUNTED).all()
    return Figures(
        reported_at=dict(session.execute(_REPORTED).all()),
        held={worker: count for worker, held, count in counted if held},
        ending={worker: count for worker, held, count in counted if not held},
        pending_since=dict(session.execute(_WAITING).all()),
    )
