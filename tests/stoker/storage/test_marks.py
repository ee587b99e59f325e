"""What live pages look at: it differs after every change, and only then."""

from collections.abc import Callable

from stoker.domain.deployments import InstanceState
from stoker.storage.deployments import Deployments
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.projections import RowProjections
from tests.stoker.storage.conftest import Clock
from tests.stoker.storage.test_repositories import instance, projection


def test_marks_differ_after_every_change_and_only_then(database: Database, clock: Clock) -> None:
    def marks() -> tuple[object, object]:
        with database.read() as session:
            return Deployments(session, clock()).marks(), Instances(session, clock()).marks()

    def instance_gone() -> None:
        with database.write() as session:
            Instances(session, clock()).remove("smol-aaaaa")

    rows = RowProjections(database, clock)
    changes: list[Callable[[], object]] = [
        lambda: rows.put_deployment(projection()),
        lambda: rows.put_deployment(projection(deleting=True)),
        lambda: rows.put_instance(instance()),
        lambda: rows.put_instance(instance(state=InstanceState.RUNNING)),
        lambda: rows.put_instance(instance(state=InstanceState.RUNNING, message="still")),
        instance_gone,
    ]
    for change in changes:
        clock.advance(seconds=1)
        before = marks()
        assert marks() == before
        change()
        assert marks() != before
