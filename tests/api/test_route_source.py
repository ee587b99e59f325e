"""The proxy's route table, from rows."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest
import structlog
from sqlalchemy import text
from sqlmodel import Session

from api.openai.router import ModelRoute, ModelState, Replica, RouteTable
from api.route_source import DatabaseRoutes, route_table
from entrypoints.clock import utc_now
from stoker.domain.deployments import InstanceState
from stoker.domain.model_routes import RouteSpec, RouteTarget
from stoker.domain.placement.types import Placement
from stoker.domain.revisions import OnTrial
from stoker.domain.statuses import DeploymentProjection, DeploymentStatus, InstanceStatus, Progress
from stoker.domain.units import GIB
from stoker.domain.workers import WorkerState
from stoker.mesh.ways import GatewayService
from stoker.secrets import engine_key
from stoker.storage.deployments import Deployments
from stoker.storage.engine import Database
from stoker.storage.known_rows import KnownRows, KnownWorker
from stoker.storage.model_routes import ModelRoutes
from tests.api.serving import away
from tests.builders import make_files, make_profile, make_spec, make_worker
from tests.fakes.api import CREATED_AT, make_instance, make_placement

RUNNING, PENDING, FAILED = InstanceState.RUNNING, InstanceState.PENDING, InstanceState.FAILED
STARTING, DOWNLOADING = InstanceState.STARTING, InstanceState.DOWNLOADING
STOPPING, BACKOFF, PLACING = InstanceState.STOPPING, InstanceState.BACKOFF, InstanceState.PLACING


def deployment(*, replicas: int = 1, deleting: bool = False, **fields: Any) -> DeploymentStatus:
    """`llama`, as its row says."""
    return DeploymentStatus(
        **{
            "spec": make_spec(replicas=replicas),
            "generation": 1,
            "profile": make_profile(),
            "files": make_files(),
            "deleting": deleting,
            "created_at": CREATED_AT,
            "updated_at": CREATED_AT,
            **fields,
        }
    )


def worker(name: str = "box-1", **overrides: Any) -> KnownWorker:
    """A worker, as its row says."""
    return KnownWorker(make_worker(name=name, **overrides), engine_secret=f"secret of {name}")


def route_of(
    status: DeploymentStatus, instances: Iterable[InstanceStatus] = (), workers: Iterable[KnownWorker] | None = None
) -> ModelRoute:
    """The route of `llama`."""
    by_name = {known.worker.name: known for known in ([worker()] if workers is None else workers)}
    return route_table((status,), tuple(instances), by_name).models["llama"]


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


@pytest.mark.parametrize(
    ("on_trial", "instances", "state", "awaited"),
    [
        (True, [(2, FAILED)], ModelState.LOADING, True),  # it is about to be rolled back
        (False, [(2, FAILED)], ModelState.FAILED, False),
        # rolled back: what is left of generation 2 says nothing
        (None, [(2, FAILED)], ModelState.LOADING, True),
        (None, [(2, FAILED), (1, STARTING)], ModelState.LOADING, True),
        (None, [(2, STOPPING), (1, FAILED)], ModelState.FAILED, False),
    ],
)
def test_who_asks_a_sleeping_model_waits_for_the_roll_back(
    on_trial: bool | None, instances: list[tuple[int, InstanceState]], state: ModelState, awaited: bool
) -> None:
    spec = make_spec(min_replicas=0, max_replicas=2)
    fields: dict[str, Any] = {"spec": spec, "scaled": 1, "generation": 3, "instances_generation": 1}
    if on_trial is not None:
        trial = OnTrial(previous=spec, instances_generation=1) if on_trial else None
        fields |= {"generation": 2, "instances_generation": 2, "trial": trial}
    there = [make_instance(s, generation=g, instance_id=f"llama-{n}") for n, (g, s) in enumerate(instances)]
    route = route_of(deployment(**fields), there)
    assert (route.state, route.is_awaited) == (state, awaited)


def test_a_replica_is_where_its_engine_listens_with_its_own_key() -> None:
    instance = make_instance(RUNNING, incarnation=3, port=4711)
    (replica,) = route_of(deployment(), [instance], [worker()]).replicas
    expected = Replica(
        instance_id="llama-a1b2c",
        host="127.0.0.1",
        port=4711,
        api_key=engine_key("secret of box-1", "llama-a1b2c", 3),
        slots=4,
    )
    assert (replica, replica.address) == (expected, ("127.0.0.1", 4711))


def test_a_replica_on_another_host_is_behind_that_hosts_gateway() -> None:
    instance = make_instance(RUNNING, incarnation=3, port=4711)
    (replica,) = route_of(deployment(), [instance], [worker(address="10.0.0.7", mesh_port=8411)]).replicas
    assert replica.address == GatewayService("10.0.0.7", 8411, "box-1", "main/llama-a1b2c.3")


def test_a_replica_on_another_host_without_a_gateway_cannot_be_reached() -> None:
    route = route_of(deployment(), [make_instance(RUNNING)], [worker(address="10.0.0.7", mesh_port=0)])
    assert (route.replicas, route.state) == ((), ModelState.LOADING)


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
    table = route_table((deployment(), other), instances, {"box-1": worker()})
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
    return DatabaseRoutes(database)


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
    read = KnownRows.read

    def counted(self: KnownRows[Any], session: Session) -> tuple[Any, ...]:
        nonlocal reads
        reads += 1
        return read(self, session)

    monkeypatch.setattr(KnownRows, "read", counted)
    tables = await asyncio.gather(*(routes.refresh() for _ in range(50)))
    assert reads in (4, 8), "of four tables: one that ran already when the last of them asked, and one for all of them"
    assert all(sorted(table.models) == ["known", "other"] for table in tables)


@pytest.mark.anyio
async def test_the_old_table_goes_on_while_the_database_is_away(routes: DatabaseRoutes, database: Database) -> None:
    await refreshed(routes)
    with structlog.testing.capture_logs() as logged:
        for _ in range(2):  # each is said once, however often it is tried
            with away(database):
                for _ in range(3):
                    assert await refreshed(routes) == ["known", "other"]
            await refreshed(routes)
            await refreshed(routes)
    assert [entry["event"] for entry in logged] == 2 * ["routes_not_refreshed", "routes_refreshed_again"]


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


# --- rollouts -------------------------------------------------------------------------------------------------------


def rolling(wanted: int, current: int, *instances: tuple[int, InstanceState]) -> list[int]:
    """The generations that are routed to, of a deployment whose instances are to be of `current`."""
    status = deployment(replicas=wanted).model_copy(update={"instances_generation": current, "generation": current})
    made = [
        make_instance(state, instance_id=f"llama-{index}", generation=generation)
        for index, (generation, state) in enumerate(instances)
    ]
    routed = {replica.instance_id for replica in route_of(status, made).replicas}
    return [one.generation for one in made if one.instance_id in routed]


@pytest.mark.parametrize(
    ("wanted", "instances", "routed"),
    [
        (1, [(1, RUNNING), (2, PENDING)], [1]),  # the new one waits for room
        (1, [(1, RUNNING), (2, STARTING)], [1]),
        (1, [(1, RUNNING), (2, RUNNING)], [2]),  # from this moment on, whether the old one can be stopped or not
        (1, [(1, STOPPING), (2, RUNNING)], [2]),
        (1, [(1, STOPPING), (2, STARTING)], []),  # there is room for one only
        (1, [(1, RUNNING), (2, FAILED)], [1]),
        (
            3,
            [(1, RUNNING), (1, RUNNING), (1, RUNNING), (2, RUNNING)],
            [1, 1, 1, 2],
        ),  # one cannot take the work of three
        (3, [(1, STOPPING), (1, RUNNING), (1, RUNNING), (2, RUNNING)], [1, 1, 2]),
        (3, [(1, RUNNING), (2, RUNNING), (2, RUNNING), (2, RUNNING)], [2, 2, 2]),
        (2, [(1, RUNNING), (2, RUNNING), (3, RUNNING)], [1, 2, 3]),  # changed again in mid-roll
        (2, [(1, RUNNING), (3, RUNNING), (3, RUNNING)], [3, 3]),
        (0, [(3, RUNNING)], [3]),  # until it is told to stop
        (1, [(4, RUNNING)], [4]),  # its row is newer than its deployment's
    ],
)
def test_a_rollout_takes_no_engine_away_before_another_is_there(
    wanted: int, instances: list[tuple[int, InstanceState]], routed: list[int]
) -> None:
    assert rolling(wanted, 3 if any(generation == 3 for generation, _ in instances) else 2, *instances) == routed


def test_old_engines_are_asked_while_no_new_one_runs_though_none_is_wanted() -> None:
    assert rolling(0, 2, (1, RUNNING)) == [1]


# --- names and queues ----------------------------------------------------------------------------------------------


def test_routes_stand_beside_the_models() -> None:
    spec = RouteSpec(name="gpt-4o", targets=(RouteTarget(deployment="llama"),))
    table = route_table((deployment(),), (), {}, [spec])
    assert dict(table.routes) == {"gpt-4o": spec}


def test_the_queue_is_the_deployments() -> None:
    status = deployment()
    assert route_of(status).queue == 128
    assert route_of(status.model_copy(update={"spec": make_spec(queue=7)})).queue == 7


@pytest.mark.anyio
async def test_nothing_ends_the_refreshing(routes: DatabaseRoutes, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    refresh = routes.refresh

    async def failing() -> RouteTable:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise RuntimeError("can't start new thread")
        return await refresh()

    monkeypatch.setattr(routes, "refresh", failing)
    monkeypatch.setattr("api.route_source.REFRESH_SECONDS", 0.001)
    running = asyncio.create_task(routes.run())
    try:
        async with asyncio.timeout(10):
            while not routes.current().models:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@pytest.mark.anyio
async def test_routes_are_read_with_the_rest(routes: DatabaseRoutes, database: Database) -> None:
    spec = RouteSpec(name="org/name", targets=(RouteTarget(deployment="known"),))
    with database.write() as session:
        ModelRoutes(session, utc_now()).add(spec)
    assert dict((await routes.refresh()).routes) == {"org/name": spec}
    with database.write() as session:
        ModelRoutes(session, utc_now()).remove("org/name")
    assert dict((await routes.refresh()).routes) == {}


def test_the_slots_are_those_of_the_placement() -> None:
    placement = make_placement()
    estimate = placement.estimate.model_copy(update={"slots": 9})
    placed: Placement = placement.model_copy(update={"estimate": estimate})
    (replica,) = route_of(deployment(), [make_instance(placement=placed)]).replicas
    assert replica.slots == 9
