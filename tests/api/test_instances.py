"""`/api/v1/instances`: what an instance is, and its logs through a real agent's listener."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from activities.ports import ProcessKey
from entrypoints.clock import utc_now
from stoker.domain.deployments import InstanceState
from stoker.domain.measured_memory import MeasuredMemory
from stoker.domain.models import ModelSource
from stoker.domain.placement.types import Placement, Unplaceable
from stoker.domain.statuses import InstanceProjection
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import Worker
from stoker.secrets import agent_key
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.workers import Workers
from tests.api.serving import Api, listening
from tests.api.test_deployments import create, problem_of
from tests.builders import make_request, make_worker
from tests.cluster import Cluster
from tests.fakes.api import make_group, make_measured, make_placement, make_unplaceable
from worker_agent.engines import BundledEngine
from worker_agent.log_server import log_app
from worker_agent.logs import EngineLogs
from worker_agent.supervisor import HostSupervisor

pytestmark = pytest.mark.anyio

PATH = "/api/v1/instances"
SECRET = "engine-secret-of-the-host"


def put(
    database: Database,
    instance_id: str,
    worker: Worker | None,
    *,
    deployment: str = "llama",
    memory: MeasuredMemory | None = None,
    outcome: Placement | Unplaceable | None = None,
) -> None:
    """An instance that runs on `worker`, or waits (None)."""
    outcome = outcome or (make_placement(worker.name) if worker else make_unplaceable())
    with database.write() as session:
        instances = Instances(session, utc_now())
        if worker:
            Workers(session, utc_now()).join(worker, credential_hash="", engine_secret=SECRET)
        instances.placed(make_request(instance_id=instance_id), outcome)
        session.flush()
        if not isinstance(outcome, Unplaceable):
            projection = InstanceProjection(
                instance_id=instance_id,
                deployment=deployment,
                generation=1,
                incarnation=1,
                state=InstanceState.RUNNING,
                port=4711,
                pid=99,
                memory=memory,
            )
            instances.put(projection)


async def test_an_instance_says_where_it_is_and_what_it_holds(lone_api: Api, database: Database) -> None:
    put(database, "llama-a", make_worker(name="box-1"))
    body = (await lone_api.admin.get(f"{PATH}/llama-a")).json()
    assert (body["id"], body["state"], body["pid"]) == ("llama-a", "running", 99)
    assert body["workflow_id"] == "instance/llama-a"
    placement, expected = body["placement"], make_placement("box-1")
    assert (placement["worker"], placement["claimed_bytes"]) == ("box-1", expected.claimed)
    assert (placement["workers"], placement["tier"], placement["warning"]) == (["box-1"], "one_device", "")
    assert placement["shares"] == [
        {"worker": "box-1", "device": "gpu0", "kind": "cuda", "layers": 33, "claimed_bytes": expected.shares[0].claim}
    ]
    estimate = placement["estimate"]
    assert (estimate["context_length"], estimate["slots"], estimate["caution"]) == (8192, 4, "")
    assert estimate["devices"] == [
        {
            "layers": 33,
            "weights_bytes": 4 * GIB,
            "cache_bytes": GIB,
            "compute_bytes": 300 * MIB,
            "overhead_bytes": 724 * MIB,
            "total_bytes": expected.shares[0].claim,
        }
    ]
    assert estimate["host"] == {
        "layers": 0,
        "weights_bytes": 282 * MIB,
        "cache_bytes": 0,
        "compute_bytes": 40 * MIB,
        "output_bytes": 2 * MIB,
        "overhead_bytes": 700 * MIB,
        "total_bytes": GIB,
    }
    parts = [estimate[f"{part}_bytes"] for part in ("weights", "cache", "compute", "output", "overhead")]
    assert parts == [4 * GIB + 282 * MIB, GIB, 340 * MIB, 2 * MIB, 1424 * MIB]
    assert sum(parts) == expected.claimed + GIB
    assert body["pending"] is None


async def test_one_over_several_workers_names_the_worker_of_each_device(lone_api: Api, database: Database) -> None:
    put(database, "llama-g", make_worker(name="box-1"), outcome=make_group())
    body = (await lone_api.admin.get(f"{PATH}/llama-g")).json()
    placement = body["placement"]
    assert (placement["worker"], placement["workers"]) == ("box-1", ["box-1", "box-2"])
    assert (placement["tier"], placement["warning"]) == ("several_workers", "box-2 may be too slow")
    assert [(s["worker"], s["device"], s["layers"]) for s in placement["shares"]] == [
        ("box-1", "gpu0", 17),
        ("box-2", "gpu0", 16),
        ("box-1", "cpu", 0),
    ]
    assert [one["device"] for one in body["memory"]] == ["box-1/gpu0", "box-2/gpu0", "host"]


async def test_what_was_estimated_beside_what_was_measured(lone_api: Api, database: Database) -> None:
    put(database, "llama-m", make_worker(name="box-1"), memory=make_measured())
    device, host = (await lone_api.admin.get(f"{PATH}/llama-m")).json()["memory"]
    assert device["device"] == "gpu0"
    assert device["estimated"] == {
        "weights_bytes": 4 * GIB,
        "cache_bytes": GIB,
        "compute_bytes": 300 * MIB,
        "output_bytes": 0,
        "overhead_bytes": 724 * MIB,
        "total_bytes": 6 * GIB,
    }
    assert device["measured"] == {
        "weights_bytes": 4 * GIB,
        "cache_bytes": GIB,
        "compute_bytes": 297 * MIB,
        "output_bytes": 0,
        "overhead_bytes": 500 * MIB,
        "total_bytes": 5 * GIB + 797 * MIB,
    }
    assert device["error_ratio"] == pytest.approx(-3 / 5420)
    assert (host["device"], host["error_ratio"]) == ("host", 0.0)
    assert (host["measured"]["total_bytes"], host["measured"]["overhead_bytes"]) == (900 * MIB, None)


async def test_before_it_runs_there_is_only_the_estimate(lone_api: Api, database: Database) -> None:
    put(database, "llama-n", make_worker(name="box-1"))
    memory = (await lone_api.admin.get(f"{PATH}/llama-n")).json()["memory"]
    assert [(one["device"], one["measured"], one["error_ratio"]) for one in memory] == [
        ("gpu0", None, None),
        ("host", None, None),
    ]
    put(database, "llama-o", None)
    assert (await lone_api.admin.get(f"{PATH}/llama-o")).json()["memory"] == []


async def test_one_that_waits_says_why(lone_api: Api, database: Database) -> None:
    put(database, "llama-b", None)
    body = (await lone_api.admin.get(f"{PATH}/llama-b")).json()
    assert (body["state"], body["placement"], body["pid"]) == ("pending", None, None)
    why = body["pending"]
    assert why["suggestions"] == [one.model_dump() for one in make_unplaceable().suggestions]
    assert [(r["rule"], r["tier"], r["short_bytes"]) for r in why["rejections"]] == [
        ("not_enough_memory", None, 4 * GIB),
        ("worker_cordoned", None, 0),
    ]
    assert (why["tiers"], why["more"], why["reserved"]) == ([], {}, [])
    short, cordoned = body["pending"]["rejections"]
    assert short["short_bytes"] == short["needed_bytes"] - short["available_bytes"] == 4 * 1024**3
    assert (cordoned["rule"], cordoned["short_bytes"]) == ("worker_cordoned", 0)


async def test_the_list_by_page_and_by_deployment(lone_api: Api, database: Database) -> None:
    worker = make_worker(name="box-1")
    for instance_id in ("page-1", "page-2", "page-3"):
        put(database, instance_id, worker)
    first = (await lone_api.admin.get(PATH, params={"after": "page", "limit": 2})).json()
    assert ([i["id"] for i in first["data"]], first["has_more"], first["last"]) == (
        ["page-1", "page-2"],
        True,
        "page-2",
    )
    rest = (await lone_api.admin.get(PATH, params={"after": first["last"], "limit": 2})).json()
    assert ([i["id"] for i in rest["data"]], rest["has_more"]) == (["page-3"], False)
    assert (await lone_api.admin.get(PATH, params={"deployment": "other"})).json()["data"] == []
    problem_of(await lone_api.admin.get(PATH, params={"deployment": "No Name"}), 422, "invalid_request")


async def test_the_watch(lone_api: Api, database: Database) -> None:
    async with asyncio.timeout(10), lone_api.watch(f"{PATH}?deployment=llama") as events:
        put(database, "watch-1", None)
        event = await anext(e async for e in events if e.data["id"] == "watch-1")
        assert (event.kind, event.data["state"]) == ("added", "pending")
        put(database, "watch-1", make_worker(name="box-1"))
        event = await anext(e async for e in events if e.data["id"] == "watch-1")
        assert (event.kind, event.data["state"]) == ("modified", "running")
        with database.write() as session:
            Instances(session, utc_now()).remove("watch-1")
        event = await anext(e async for e in events if e.data["id"] == "watch-1")
        assert event.kind == "deleted"


@pytest.mark.parametrize("path", ["llama-nobody", "llama-nobody/logs"])
async def test_one_that_is_not_there(lone_api: Api, path: str) -> None:
    detail = problem_of(await lone_api.admin.get(f"{PATH}/{path}"), 404, "not_found").detail
    assert "no instance 'llama-nobody'" in detail


@pytest.mark.parametrize("path", ["Not_An_Id", "a%2F..%2Fb", "a%00", "x" * 64])
async def test_an_id_that_is_none_reaches_no_agent(lone_api: Api, path: str) -> None:
    for suffix in ("", "/logs"):
        response = await lone_api.admin.get(f"{PATH}/{path}{suffix}")
        assert response.status_code in (404, 422), response.text
        assert response.headers["content-type"] == "application/problem+json"


# --- logs -----------------------------------------------------------------------------------------------------------


async def test_logs_of_a_real_engine(api: Api, cluster: Cluster, tiny_model: ModelSource) -> None:
    await create(api, tiny_model, "logged", replicas=1)
    (instance,) = await cluster.instances_in("logged", [InstanceState.RUNNING])
    url = f"{PATH}/{instance.instance_id}/logs"
    whole = await api.admin.get(url)
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert "listening" in whole.text
    assert len((await api.admin.get(url, params={"tail": 2})).text.splitlines()) == 2
    assert (await api.admin.get(url, params={"tail": 0})).text == ""

    async with asyncio.timeout(30), api.admin.stream("GET", url, params={"follow": "true"}) as response:
        lines = response.aiter_lines()
        await anext(line async for line in lines if "listening" in line)
        await api.admin.delete("/api/v1/deployments/logged")
        rest = [line async for line in lines]  # the stream ends with the process
    assert rest[-1].startswith("SIGTERM")
    await cluster.gone("logged")


async def test_one_without_a_place_has_no_logs_yet(lone_api: Api, database: Database) -> None:
    put(database, "llama-waits", None)
    problem = problem_of(await lone_api.admin.get(f"{PATH}/llama-waits/logs"), 404, "not_found")
    assert "llama-waits is pending: it has no place yet" in problem.detail


@pytest.fixture
async def host(tmp_path: Path, database: Database) -> AsyncIterator[EngineLogs]:
    """The logs of a host with a real listener, whose instance `llama-log` has ended."""
    supervisor = HostSupervisor(
        engine=BundledEngine(),
        state_dir=tmp_path / "state",
        log_dir=tmp_path / "logs",
        host="127.0.0.1",
        arguments=lambda _: [],
        engine_key=lambda _: "",
    )
    async with supervisor, listening(log_app(supervisor, lambda: agent_key(SECRET))) as port:
        put(database, "llama-log", make_worker(name="box-log", agent_port=port))
        yield EngineLogs(tmp_path / "logs")


async def test_the_newest_incarnations_logs(lone_api: Api, host: EngineLogs) -> None:
    for incarnation, words in ((1, "old"), (2, "zwei ☃")):
        host.path(ProcessKey(instance_id="llama-log", incarnation=incarnation)).write_text(f"{words}\n")
    for follow in ("false", "true"):
        answer = await lone_api.admin.get(f"{PATH}/llama-log/logs", params={"follow": follow})
        assert answer.text == "zwei ☃\n"


async def test_an_instance_that_wrote_nothing_on_its_host(lone_api: Api, host: EngineLogs) -> None:
    response = await lone_api.admin.get(f"{PATH}/llama-log/logs")
    assert "no log of instance 'llama-log'" in problem_of(response, 404, "not_found").detail


@pytest.mark.parametrize("query", [{"tail": "-1"}, {"tail": "10001"}, {"tail": "all"}, {"follow": "perhaps"}])
async def test_a_wrong_question_for_logs(lone_api: Api, query: dict[str, str]) -> None:
    response = await lone_api.admin.get(f"{PATH}/llama-log/logs", params=query)
    assert [error.field for error in problem_of(response, 422, "invalid_request").errors] == list(query)


@pytest.mark.parametrize(
    "where",
    [
        {"agent_port": 1},  # nobody listens
        {"agent_port": 0},  # it never said
        {"address": "::1", "agent_port": 1},
        {"address": "no host", "agent_port": 1, "mesh_port": 1},
        {"address": "a/b?c=d#e", "agent_port": 1, "mesh_port": 1},
    ],
)
async def test_an_agent_that_does_not_answer(lone_api: Api, database: Database, where: dict[str, Any]) -> None:
    put(database, "llama-away", make_worker(name="box-away", **where))
    response = await lone_api.admin.get(f"{PATH}/llama-away/logs")
    assert "the agent of box-away does not answer" in problem_of(response, 502, "worker_unreachable").detail


async def test_an_agent_on_another_host_that_has_no_gateway(lone_api: Api, database: Database) -> None:
    put(database, "llama-away", make_worker(name="box-away", address="10.0.0.7", agent_port=1, mesh_port=0))
    response = await lone_api.admin.get(f"{PATH}/llama-away/logs")
    assert "box-away has no gateway yet" in problem_of(response, 502, "worker_unreachable").detail


async def test_an_agent_that_refuses_our_key(lone_api: Api, host: EngineLogs, database: Database) -> None:
    with database.write() as session:
        workers = Workers(session, utc_now())
        worker = workers.get("box-log")
        assert worker is not None
        workers.join(worker.worker.model_copy(update={"name": "box-new"}), credential_hash="", engine_secret="other")
        Instances(session, utc_now()).placed(make_request(instance_id="llama-new"), make_placement("box-new"))
    response = await lone_api.admin.get(f"{PATH}/llama-new/logs")
    assert "box-new answered 401" in problem_of(response, 502, "worker_unreachable").detail


async def test_who_stops_following_is_forgotten_by_the_agent_too(lone_api: Api, database: Database) -> None:
    left = asyncio.Event()

    async def endless(_: Request) -> StreamingResponse:
        async def lines() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"line\n"
                    await asyncio.sleep(0.005)
            finally:
                left.set()

        return StreamingResponse(lines())

    async with listening(Starlette(routes=[Route("/logs/{instance_id}", endless)])) as port:
        put(database, "llama-on", make_worker(name="box-on", agent_port=port))
        url, query = f"{PATH}/llama-on/logs", {"follow": "true"}
        async with lone_api.admin.stream("GET", url, params=query) as response:
            assert await anext(response.aiter_lines()) == "line"
        async with asyncio.timeout(10):
            await left.wait()


async def test_only_admins_read(lone_api: Api) -> None:
    problem_of(await lone_api.anyone.get(PATH), 401, "unauthorized")
