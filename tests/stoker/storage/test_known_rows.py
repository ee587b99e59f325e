"""Rows that are read again and again: no change is missed, by whatever clock; what has not changed is not parsed."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlmodel import Session

from stoker.domain.deployments import InstanceState
from stoker.domain.placement.types import Placement, Unplaceable
from stoker.domain.statuses import (
    DeploymentProjection,
    DeploymentStatus,
    InstanceProjection,
    InstanceStatus,
    Progress,
)
from stoker.storage.deployments import Deployments
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.known_rows import KnownRows, known_deployments, known_instances
from stoker.storage.tables import InstanceRow, table_of
from tests.builders import make_files, make_profile, make_request, make_spec
from tests.fakes.api import make_placement, make_unplaceable
from tests.stoker.storage.conftest import Clock

Change = Callable[[Session, Clock], None]


def projection(instance_id: str = "a", **overrides: Any) -> InstanceProjection:
    """A running instance's."""
    given = {"state": InstanceState.RUNNING, "port": 4711, "pid": 17, "message": "answers", **overrides}
    return InstanceProjection(instance_id=instance_id, deployment="llama", generation=1, incarnation=1, **given)


def placed(outcome: Placement | Unplaceable, instance_id: str = "a", incarnation: int = 1) -> Change:
    """What the claiming transaction decided."""
    request = make_request(instance_id=instance_id, incarnation=incarnation)
    return lambda session, clock: Instances(session, clock()).placed(request, outcome)


def shown(**overrides: Any) -> Change:
    """What the workflow projected."""
    return lambda session, clock: Instances(session, clock()).put(projection(**overrides))


def removed(instance_id: str = "a") -> Change:
    """The instance is gone."""
    return lambda session, clock: Instances(session, clock()).remove(instance_id)


def progress(session: Session, clock: Clock) -> None:
    """The agent reported how far the instance is."""
    Instances(session, clock()).set_progress("a", "box-1", Progress(done=1, total=4))


def by_hand(statement: str) -> Change:
    """Somebody else wrote it, and no clock was asked."""

    def written(session: Session, _: Clock) -> None:
        session.execute(text(statement))

    return written


def deployment(**overrides: Any) -> Change:
    """A deployment's row."""
    spec = make_spec(name="llama", **overrides)
    shown = DeploymentProjection(spec=spec, generation=1, profile=make_profile(), files=make_files())
    return lambda session, clock: Deployments(session, clock()).put(shown)


def deployment_removed(session: Session, clock: Clock) -> None:
    """It is gone."""
    Deployments(session, clock()).remove("llama")


def all_instances(session: Session, clock: Clock) -> tuple[InstanceStatus, ...]:
    """As the repository reads them, without their reasons."""
    return tuple(one.model_copy(update={"unplaceable": None}) for one in Instances(session, clock()).all())


@pytest.fixture
def write(database: Database, clock: Clock) -> Callable[..., None]:
    """Makes changes, each in a transaction of its own. The clock stands still."""

    def written(*changes: Change) -> None:
        for change in changes:
            with database.write() as session:
                change(session, clock)

    return written


def counting(known: KnownRows[Any]) -> list[Mapping[str, Any]]:
    """The rows that are parsed from here on."""
    parsed: list[Mapping[str, Any]] = []
    parse = known._parse

    def counted(row: Mapping[str, Any]) -> Any:
        parsed.append(row)
        return parse(row)

    known._parse = counted
    return parsed


@pytest.mark.parametrize(
    "changes",
    [
        [shown(port=4712)],
        [shown(message="answers again")],
        [shown(state=InstanceState.STOPPING, port=0)],
        [shown(port=4712), shown(port=4711, pid=18)],
        [placed(make_placement("box-2"))],
        [placed(make_placement(), incarnation=2)],
        [placed(make_unplaceable())],
        [placed(make_placement()), progress],
        [removed()],
        [removed(), placed(make_placement("box-2")), shown()],
        [removed("b"), removed(), placed(make_placement("box-2")), shown()],
        [placed(make_placement(), "c")],
        [by_hand("UPDATE instance SET port = 9 WHERE id = 'a'")],
        [by_hand("UPDATE instance SET placement = NULL WHERE id = 'a'")],
        [by_hand("UPDATE instance SET updated_at = '2020-01-01 00:00:00+00:00', message = 'old' WHERE id = 'a'")],
    ],
)
@pytest.mark.parametrize("set_back", [0.0, 5.0], ids=["within one tick", "by a clock that is behind"])
def test_every_change_of_an_instance_is_seen(
    write: Callable[..., None], database: Database, clock: Clock, changes: list[Change], set_back: float
) -> None:
    write(placed(make_placement()), shown(), placed(make_unplaceable(), "b"))
    known = known_instances()
    with database.read() as session:
        assert known.read(session) == all_instances(session, clock)
    clock.now -= timedelta(seconds=set_back)
    write(*changes)
    with database.read() as session:
        assert known.read(session) == all_instances(session, clock)


@pytest.mark.parametrize(
    "changes",
    [
        [deployment(replicas=2)],
        [deployment(replicas=2), deployment(replicas=1, priority=3)],
        [deployment_removed],
        [deployment_removed, deployment(replicas=3)],
        [by_hand("UPDATE deployment SET created_at = '2020-01-01 00:00:00+00:00'")],
    ],
)
def test_every_change_of_a_deployment_is_seen(
    write: Callable[..., None], database: Database, clock: Clock, changes: list[Change]
) -> None:
    write(deployment())
    known = known_deployments()
    with database.read() as session:
        assert known.read(session) == Deployments(session, clock()).all()
    write(*changes)
    with database.read() as session:
        assert known.read(session) == Deployments(session, clock()).all()


def test_only_what_has_changed_is_parsed_again(write: Callable[..., None], database: Database) -> None:
    write(*(placed(make_placement(), name) for name in "abc"))
    known = known_instances()
    parsed = counting(known)

    def read() -> dict[str, InstanceStatus]:
        with database.read() as session:
            return {one.instance_id: one for one in known.read(session)}

    first = read()
    assert [row["id"] for row in parsed] == ["a", "b", "c"]
    again = read()
    assert all(again[name] is first[name] for name in "abc")
    write(shown(instance_id="b"))
    assert list(read()) == ["a", "b", "c"]
    assert [row["id"] for row in parsed] == ["a", "b", "c", "b"]


def test_what_is_long_is_not_asked_for(write: Callable[..., None], database: Database) -> None:
    write(placed(make_unplaceable()))
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    with database.read() as session:
        (found,) = known_instances().read(session)
    assert (found.state, found.unplaceable) == (InstanceState.PENDING, None)
    assert found.message == make_unplaceable().summary
    assert len(asked) >= 2
    assert not [one for one in asked if "instance.request" in one or "instance.unplaceable" in one]


def test_more_rows_than_are_read_at_once(write: Callable[..., None], database: Database, clock: Clock) -> None:
    write(placed(make_placement(), "i0000"))
    with database.write() as session:
        like = session.get(InstanceRow, "i0000")
        assert like is not None
        rows = [{**like.model_dump(), "id": f"i{number:04}"} for number in range(1, 1201)]
        session.execute(table_of(InstanceRow).insert(), rows)
    known = known_instances()
    with database.read() as session:
        found = known.read(session)
    assert [one.instance_id for one in found] == [f"i{number:04}" for number in range(1201)]


def test_a_row_that_cannot_be_read_is_an_error_until_it_is_mended(
    write: Callable[..., None], database: Database, clock: Clock
) -> None:
    write(deployment())
    known = known_deployments()
    with database.read() as session:
        known.read(session)
    write(by_hand("UPDATE deployment SET projection = '{}'"))
    for _ in range(2):
        with database.read() as session, pytest.raises(ValueError, match="spec"):
            known.read(session)
    write(deployment(replicas=7))
    with database.read() as session:
        (found,) = known.read(session)
    assert isinstance(found, DeploymentStatus)
    assert found.spec.replicas == 7


def test_a_row_that_goes_while_it_is_read_is_left_out(
    write: Callable[..., None], database: Database, clock: Clock
) -> None:
    if database.is_sqlite:
        pytest.skip("a reader sees one moment there")
    write(*(placed(make_placement(), name) for name in "ab"))
    known = known_instances()
    gone = False

    def go(*given: Any) -> None:
        nonlocal gone
        if not gone and "xmin" not in given[2] and "FROM instance" in given[2]:
            gone = True
            write(removed("a"), shown(instance_id="b"))

    event.listen(database.engine, "before_cursor_execute", go)
    with database.read() as session:
        assert [(one.instance_id, one.state) for one in known.read(session)] == [("b", InstanceState.RUNNING)]
    with database.read() as session:
        assert known.read(session) == all_instances(session, clock)
