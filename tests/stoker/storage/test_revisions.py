"""Revisions are written with their deployment, bounded, and gone with it."""

from stoker.domain.deployments import InstanceState
from stoker.domain.revisions import KEPT_REVISIONS, Revision, RevisionState, RolledBack
from stoker.domain.statuses import DeploymentProjection
from stoker.storage.deployments import Deployments
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.migrate import migrate
from stoker.storage.projections import RowProjections
from stoker.storage.revisions import Revisions
from tests.builders import make_files, make_profile, make_spec
from tests.stoker.storage.conftest import Clock
from tests.stoker.storage.test_repositories import instance, projection

CURRENT, SUPERSEDED, ROLLED_BACK = RevisionState.CURRENT, RevisionState.SUPERSEDED, RevisionState.ROLLED_BACK


def generation(number: int, *, made_of: int | None = None, **fields: object) -> DeploymentProjection:
    spec = make_spec(name="smol", options={"slots": number})
    return projection(generation=number, instances_generation=made_of or number, spec=spec, **fields)


def known(database: Database, clock: Clock, name: str = "smol") -> list[Revision]:
    """The first one first."""
    with database.read() as session:
        return list(reversed(Revisions(session, clock()).of(name)))


def test_a_revision_comes_back_whole(database: Database, clock: Clock) -> None:
    rows = RowProjections(database, clock)
    rows.put_deployment(generation(1, by="alice", reason="generation 7 again"))
    first = known(database, clock)
    assert first == [
        Revision(
            deployment="smol",
            generation=1,
            instances_generation=1,
            spec=generation(1).spec,
            state=CURRENT,
            ran=False,
            by="alice",
            reason="generation 7 again",
            created_at=clock(),
        )
    ]
    with database.read() as session:
        assert Revisions(session, clock()).model("smol", 1) == (make_files(), make_profile())
        assert Revisions(session, clock()).model("smol", 2) is None
    clock.advance(seconds=5)
    rows.put_deployment(generation(1, deleting=True, by="bob"))
    assert known(database, clock) == first, "told again, it is what it was"


def test_those_that_running_instances_answer_have_run(database: Database, clock: Clock) -> None:
    rows = RowProjections(database, clock)
    rows.put_deployment(generation(1))
    rows.put_deployment(generation(2))
    rows.put_deployment(generation(3, made_of=2))
    rows.put_instance(instance(generation=2, state=InstanceState.STARTING))
    assert [one.ran for one in known(database, clock)] == [False, False, False]
    rows.put_instance(instance(generation=2, state=InstanceState.RUNNING))
    assert [one.ran for one in known(database, clock)] == [False, True, True]
    rows.put_deployment(generation(4, made_of=2))
    rows.put_deployment(generation(5))
    assert [one.ran for one in known(database, clock)] == [False, True, True, True, False]
    assert [one.state for one in known(database, clock)] == [SUPERSEDED] * 4 + [CURRENT]


def test_what_is_rolled_back_is_marked_with_the_reason(database: Database, clock: Clock) -> None:
    rows = RowProjections(database, clock)
    rows.put_deployment(generation(1))
    rows.put_deployment(generation(2))
    rows.put_deployment(generation(3, made_of=2))
    back = generation(4, made_of=1, rolled_back=RolledBack(generation=3, reason="no such file"))
    rows.put_deployment(back)
    rows.put_deployment(back)
    assert [(one.state, one.reason) for one in known(database, clock)] == [
        (SUPERSEDED, ""),
        (ROLLED_BACK, "no such file"),
        (ROLLED_BACK, "no such file"),
        (CURRENT, ""),
    ]


def test_an_older_projection_changes_nothing(database: Database, clock: Clock) -> None:
    rows = RowProjections(database, clock)
    rows.put_deployment(generation(2))
    rows.put_deployment(generation(1))
    assert [one.generation for one in known(database, clock)] == [2]


def test_the_last_fifty_are_kept(database: Database, clock: Clock) -> None:
    rows = RowProjections(database, clock)
    for number in range(1, KEPT_REVISIONS + 3):
        rows.put_deployment(generation(number))
    assert [one.generation for one in known(database, clock)] == list(range(3, KEPT_REVISIONS + 3))


def test_they_go_with_their_deployment_and_no_other(database: Database, clock: Clock) -> None:
    rows = RowProjections(database, clock)
    rows.put_deployment(generation(1))
    rows.put_deployment(projection("other"))
    rows.remove_deployment("smol")
    assert known(database, clock) == []
    assert [one.deployment for one in known(database, clock, "other")] == ["other"]


def test_what_was_wanted_before_there_were_revisions_is_the_first(database_url: str, clock: Clock) -> None:
    database = Database(database_url)
    migrate(database, "0006")
    with database.write() as session:
        Deployments(session, clock()).put(generation(3, made_of=2))
        Deployments(session, clock()).put(projection("other"))
        Instances(session, clock()).put(instance(generation=2, state=InstanceState.RUNNING))
    migrate(database)
    (first,) = known(database, clock)
    assert (first.generation, first.instances_generation, first.ran) == (3, 2, True)
    assert (first.state, first.spec, first.created_at) == (CURRENT, generation(3).spec, clock())
    assert [(one.instances_generation, one.ran) for one in known(database, clock, "other")] == [(1, False)]
    RowProjections(database, clock).put_deployment(generation(4))
    assert [one.state for one in known(database, clock)] == [SUPERSEDED, CURRENT]
    database.close()
