"""The proxy's route table, from rows."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest
import structlog
from sqlalchemy import text

from api.openai.router import ModelRoute, ModelState, Replica
from api.route_source import DatabaseRoutes, route_table
from entrypoints.clock import utc_now
from stoker.domain.deployments import InstanceState
from stoker.domain.placement.types import Placement
from stoker.domain.statuses import DeploymentProjection, DeploymentStatus, InstanceStatus, Progress, WorkerStatus
from stoker.domain.units import GIB
from stoker.domain.workers import WorkerState
from stoker.secrets import engine_key
from stoker.storage.deployments import Deployments
from stoker.storage.engine import Database
from tests.api.serving import away
from tests.builders import make_files, make_profile, make_spec, make_worker
from tests.fakes.api import CREATED_AT, make_instance, make_placement

RUNNING, PENDING, FAILED = InstanceState.RUNNING, InstanceState.PENDING, InstanceState.FAILED
STARTING, DOWNLOADING = InstanceState.STARTING, InstanceState.DOWNLOADING
STOPPING, BACKOFF, PLACING = InstanceState.STOPPING, InstanceState.BACKOFF, InstanceState.PLACING


def deployment(*, replicas: int = 1, deleting: bool = False) -> DeploymentStatus:
    """`llama`, as its row says."""
    return DeploymentStatus(
        spec=make_spec(replicas=replicas),
        generation=1,
        profile=make_profile(),
        files=make_files(),
        deleting=deleting,
        created_at=CREATED_AT,
        updated_at=CREATED_AT,
    )


def worker(name: str = "box-1", **overrides: Any) -> WorkerStatus:
    """A worker, as its row says."""
    return WorkerStatus(worker=make_worker(name=name, **overrides), joined_at=CREATED_AT, seen_at=CREATED_AT)


def route_of(
    status: DeploymentStatus, instances: Iterable[InstanceStatus] = (), workers: Iterable[WorkerStatus] | None = None
) -> ModelRoute:
    """The route of `llama`."""
    by_name = {known.worker.name: known for known in ([worker()] if workers is None else workers)}
    secrets = {name: f"secret of {name}" for name in by_name}
    return route_table((status,), tuple(instances), by_name, secrets).models["llama"]


def in_states(*states: InstanceState) -> list[InstanceStatus]:
    """An instance in each."""
    return [make_instance(state, instance_id=f"llama-{number}") for number, state in enumerate(states)]


@pytest.mark.parametrize(
    ("status", "states", "expected"),
    [
        (deployment(), [RUNNING], ModelState.READY),
        (deployment(replicas=2), [RUNNING, PENDING], ModelState.READY),
        (deployment(replicas=2), [FAILED, RUNNING], ModelState.READY),
        (deployment(), [RUNNING, STOPPING], ModelState.READY),
        (deployment(deleting=True), [RUNNING], ModelState.READY),  # until it is told to stop, it answers
        (deployment(), [], ModelState.LOADING),
        (deployment(), [PLACING], ModelState.LOADING),
        (deployment(), [DOWNLOADING], ModelState.LOADING),
        (deployment(), [STARTING], ModelState.LOADING),
        (deployment(), [BACKOFF], ModelState.LOADING),
        (deployment(), [PENDING], ModelState.PENDING),
        (deployment(replicas=2), [PENDING, STARTING], ModelState.PENDING),
        (deployment(), [FAILED], ModelState.FAILED),
        (deployment(replicas=2), [FAILED, PENDING], ModelState.FAILED),
        (deployment(), [STOPPING], ModelState.LOADING),
        (deployment(replicas=0), [], ModelState.STOPPED),
        (deployment(replicas=0), [STOPPING], ModelState.STOPPED),
        (deployment(deleting=True), [], ModelState.STOPPED),
        (deployment(deleting=True), [STOPPING], ModelState.STOPPED),
    ],
)
def test_the_state_of_a_model(status: DeploymentStatus, states: list[InstanceState], expected: ModelState) -> None:
    route = route_of(status, in_states(*states))
    assert route.state is expected
    assert bool(route.replicas) is (expected is ModelState.READY)


def test_a_replica_is_where_its_engine_listens_with_its_own_key() -> None:
    instance = make_instance(RUNNING, incarnation=3, port=4711)
    (replica,) = route_of(deployment(), [instance], [worker(address="10.0.0.7")]).replicas
    assert replica == Replica(
        instance_id="llama-a1b2c",
        host="10.0.0.7",
        port=4711,
        api_key=engine_key("secret of box-1", "llama-a1b2c", 3),
        slots=4,
    )


def test_only_engines_that_can_be_reached_are_routed_to() -> None:
    instances = [
        make_instance(RUNNING, instance_id="llama-0", port=0),
        make_instance(RUNNING, instance_id="llama-1", placement=None),
        make_instance(RUNNING, instance_id="llama-2", placement=make_placement("box-removed")),
        make_instance(STOPPING, instance_id="llama-3", port=4711),
        make_instance(RUNNING, instance_id="llama-4"),
    ]
    route = route_of(deployment(replicas=5), instances)
    assert [replica.instance_id for replica in route.replicas] == ["llama-4"]


@pytest.mark.parametrize("state", list(WorkerState))
def test_an_engine_answers_whatever_its_agent_does(state: WorkerState) -> None:
    assert route_of(deployment(), [make_instance()], [worker(state=state)]).replicas


def test_all_run_yet_none_can_be_reached() -> None:
    assert route_of(deployment(), [make_instance(RUNNING)], []).state is ModelState.LOADING


def test_what_is_loading_says_where_and_how_far_it_is() -> None:
    loading = make_instance(DOWNLOADING, progress=Progress(done=1 * GIB, total=4 * GIB, rate=1 * GIB), message="wait")
    route = route_of(deployment(), [loading])
    assert (route.state, route.worker, route.progress, route.eta_seconds) == (ModelState.LOADING, "box-1", 0.25, 3.0)
    assert route.message == "wait"
    unknown = route_of(deployment(), [make_instance(STARTING, progress=Progress(done=0, total=0))])
    assert (unknown.progress, unknown.eta_seconds) == (0.0, None)
    assert route_of(deployment(), [make_instance(PENDING)]).message.startswith("Needs 6 GiB")


def test_each_deployment_has_its_own_instances() -> None:
    other = deployment().model_copy(update={"spec": make_spec(name="other")})
    instances = (make_instance(deployment="other", instance_id="other-1"), make_instance(deployment="removed"))
    table = route_table((deployment(), other), instances, {"box-1": worker()}, {"box-1": "secret"})
    assert {name: len(route.replicas) for name, route in table.models.items()} == {"llama": 0, "other": 1}
    assert table.models["llama"].created == int(CREATED_AT.timestamp())


# --- from a database ------------------------------------------------------------------------------------------------


def put(database: Database, name: str) -> None:
    """A deployment's row."""
    projection = DeploymentProjection(
        spec=make_spec(name=name, replicas=0), generation=1, profile=make_profile(), files=make_files()
    )
    with database.write() as session:
        Deployments(session, utc_now()).put(projection)


def remove(database: Database, name: str) -> None:
    """Takes the row away, readable or not."""
    with database.write() as session:
        session.execute(text("DELETE FROM deployment WHERE name = :n"), {"n": name})


def damage(database: Database, name: str, content: str) -> None:
    """Writes something else in its place."""
    with database.write() as session:
        session.execute(text("UPDATE deployment SET projection = :c WHERE name = :n"), {"c": content, "n": name})


async def refreshed(routes: DatabaseRoutes) -> list[str]:
    """The models of a table that is read now."""
    return sorted((await routes.refresh()).models)


@pytest.fixture
def routes(database: Database) -> DatabaseRoutes:
    """Nothing read yet; `known` and `other` are there."""
    for name in ("known", "other"):
        put(database, name)
    return DatabaseRoutes(database, utc_now)


@pytest.mark.anyio
async def test_the_table_is_what_was_read_last(routes: DatabaseRoutes, database: Database) -> None:
    assert routes.current().models == {}
    assert await refreshed(routes) == ["known", "other"]
    remove(database, "other")
    assert sorted(routes.current().models) == ["known", "other"]
    assert await refreshed(routes) == ["known"]


@pytest.mark.anyio
async def test_what_was_committed_before_the_call_is_in_the_table(routes: DatabaseRoutes, database: Database) -> None:
    for name in ("a", "b", "c"):  # one right after the other: no read in between is recent enough
        put(database, name)
        found = await refreshed(routes)
        remove(database, name)
        assert name in found


@pytest.mark.anyio
async def test_many_who_ask_at_once_read_once(routes: DatabaseRoutes, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    read = Deployments.all

    def counted(self: Deployments, **options: Any) -> tuple[DeploymentStatus, ...]:
        nonlocal reads
        reads += 1
        return read(self, **options)

    monkeypatch.setattr(Deployments, "all", counted)
    tables = await asyncio.gather(*(routes.refresh() for _ in range(50)))
    assert reads <= 2, "one that ran already when the last of them asked, and one for all of them"
    assert all(sorted(table.models) == ["known", "other"] for table in tables)


@pytest.mark.anyio
async def test_the_old_table_goes_on_while_the_database_is_away(routes: DatabaseRoutes, database: Database) -> None:
    await refreshed(routes)
    with away(database), structlog.testing.capture_logs() as logged:
        assert await refreshed(routes) == ["known", "other"]
    assert [entry["event"] for entry in logged] == ["routes_not_refreshed"]


@pytest.mark.anyio
@pytest.mark.parametrize("content", ['{"spec": {"name": "of another version"}}', "[]", "null", "{", "7", '"text"'])
async def test_a_row_that_cannot_be_read_does_not_end_the_refreshing(
    routes: DatabaseRoutes, database: Database, content: str
) -> None:
    await refreshed(routes)
    damage(database, "other", content)
    put(database, "new")
    running = asyncio.create_task(routes.run())
    try:
        assert "new" not in await refreshed(routes), "the old table"
        assert not running.done()
        remove(database, "other")
        async with asyncio.timeout(10):
            while sorted(routes.current().models) != ["known", "new"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        for name in ("new", "other"):
            remove(database, name)


def test_the_slots_are_those_of_the_placement() -> None:
    placement = make_placement()
    estimate = placement.estimate.model_copy(update={"slots": 9})
    placed: Placement = placement.model_copy(update={"estimate": estimate})
    (replica,) = route_of(deployment(), [make_instance(placement=placed)]).replicas
    assert replica.slots == 9
