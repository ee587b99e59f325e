"""Rows as they were last read: only those that have changed since are read and parsed again.

For whoever looks at all of them twice a second. What an instance asked for, and the reasons of one that waits, are long
and of no use there: they are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, String, Table, literal_column, type_coerce
from sqlmodel import Session, select

from stoker.domain.model_routes import RouteSpec
from stoker.domain.statuses import DeploymentStatus, InstanceStatus
from stoker.domain.workers import Worker
from stoker.storage.tables import DeploymentRow, InstanceRow, ModelRouteRow, WorkerRow, table_of

Status = TypeVar("Status")

_AT_ONCE = 500  # rows read with one question


class KnownRows(Generic[Status]):
    """One table's. No change of a row is missed, whoever made it, by whatever clock: a change is not told by a moment.

    Where no column tells of one: PostgreSQL keeps with each row the transaction that wrote it (`xmin`). SQLite keeps
    nothing of the kind, but is read from the same machine's disk: there all that is not left out is compared, unparsed.
    """

    def __init__(
        self,
        table: Table,
        parse: Callable[[Mapping[str, Any]], Status],
        left_out: Sequence[str] = (),
        versioned_by: Sequence[str] = (),
    ) -> None:
        """`parse`: from a row's columns without those `left_out`, by name; a ValueError of its is `read`'s.

        `versioned_by`: columns of which one is another whenever anything changed that `parse` looks at.
        """
        (self._key,) = table.primary_key.columns
        kept = [column for column in table.c if column.name not in left_out]
        versions: dict[str, Sequence[ColumnElement[Any]]] = {
            "postgresql": [literal_column(f"{table.name}.xmin::text")],
            "sqlite": [type_coerce(column, String) for column in kept],
        }
        if versioned_by:
            versions = {dialect: [table.c[name] for name in versioned_by] for dialect in versions}
        self._versions = {
            dialect: select(self._key, *version).order_by(self._key) for dialect, version in versions.items()
        }
        self._rows = select(*kept)
        self._parse = parse
        self._known: dict[str, tuple[tuple[Any, ...], Status]] = {}

    def read(self, session: Session) -> tuple[Status, ...]:
        """All rows by their key, as they are now."""
        before = self._known  # another thread may read too: what it finds is as good
        there = {row[0]: tuple(row) for row in session.execute(self._versions[session.get_bind().dialect.name])}
        known = {key: one for key, version in there.items() if (one := before.get(key)) and one[0] == version}
        changed = [key for key in there if key not in known]
        for first in range(0, len(changed), _AT_ONCE):
            some = self._key.in_(changed[first : first + _AT_ONCE])
            for row in session.execute(self._rows.where(some)).mappings():
                content = {str(name): value for name, value in row.items()}
                key = content[self._key.name]
                known[key] = there[key], self._parse(content)  # changed once more in between: it is read again
        self._known = {key: known[key] for key in there if key in known}
        return tuple(status for _, status in self._known.values())


def known_instances() -> KnownRows[InstanceStatus]:
    """All instances, by id; `unplaceable` is None in each, also in those that wait."""
    return KnownRows(
        table_of(InstanceRow),
        lambda row: InstanceStatus.model_validate({**row, "instance_id": row["id"]}),
        left_out=("request", "request_digest", "unplaceable"),
    )


def known_deployments() -> KnownRows[DeploymentStatus]:
    """All deployments, by name."""
    return KnownRows(
        table_of(DeploymentRow),
        lambda row: DeploymentStatus.model_validate(
            {**row["projection"], "created_at": row["created_at"], "updated_at": row["updated_at"]}
        ),
    )


def known_model_routes() -> KnownRows[RouteSpec]:
    """All routes, by name."""
    return KnownRows(table_of(ModelRouteRow), lambda row: RouteSpec.model_validate(row["spec"]))


class KnownWorker(NamedTuple):
    """What a route needs of a worker."""

    worker: Worker  # as it last reported
    engine_secret: str


def known_workers() -> KnownRows[tuple[str, KnownWorker]]:
    """All workers, by name; their state is not known: it is a matter of the clock."""
    return KnownRows(
        table_of(WorkerRow),
        lambda row: (row["name"], KnownWorker(Worker.model_validate(row["report"]), row["engine_secret"])),
        left_out=("files",),
        versioned_by=("report_version", "engine_secret"),  # a report without news changes its row all the same
    )
