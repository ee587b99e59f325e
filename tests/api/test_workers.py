"""`/api/v1/workers`: joining, reporting, and what administrators see."""

import asyncio
from typing import Any

import httpx
import pytest

from entrypoints.clock import utc_now
from stoker.domain.deployments import InstanceState
from stoker.domain.models import ModelSource
from stoker.domain.placement.types import Placement
from stoker.domain.reports import HeldIncarnation, JoinAnswer, ReportAnswer, WorkerReport
from stoker.domain.statuses import InstanceProjection, Progress
from stoker.domain.units import GIB, MIB
from stoker.domain.workers import DeviceKind, Engine, EngineKind, Worker
from stoker.storage.claims import ClaimLedger
from stoker.storage.engine import Database
from stoker.storage.instances import Instances
from stoker.storage.workers import Workers
from tests.api.serving import JOIN_TOKEN, Api
from tests.api.test_deployments import create, problem_of, removed
from tests.builders import make_device, make_request, make_spec, make_worker
from tests.cluster import Cluster, eventually_async
from tests.workflows.conftest import cpu_host

pytestmark = pytest.mark.anyio

PATH = "/api/v1/workers"


async def shown(api: Api, name: str) -> dict[str, Any]:
    """The worker as an administrator sees it."""
    body: dict[str, Any] = (await api.admin.get(f"{PATH}/{name}")).raise_for_status().json()
    return body


def held(response: Any) -> list[tuple[str, int]]:
    """What may run on the worker."""
    answer = ReportAnswer.model_validate_json(response.raise_for_status().content)
    return [(item.instance_id, item.incarnation) for item in answer.held]


async def test_a_worker_joins_and_is_shown(lone_api: Api) -> None:
    joined = await lone_api.join(make_worker(name="box-1", labels={"zone": "a"}))
    assert joined.status_code == 200
    answer = JoinAnswer.model_validate_json(joined.content)
    assert answer.credential.startswith("st-worker-")
    assert len(answer.engine_secret) >= 32
    body = await shown(lone_api, "box-1")
    assert (body["state"], body["labels"], body["address"]) == ("ready", {"zone": "a"}, "127.0.0.1")
    assert body["engine"] == {"kind": "native", "version": "b11434", "rpc_protocol": "7.0.0"}
    gpu, cpu = body["devices"]
    assert (gpu["id"], gpu["kind"], gpu["total_bytes"], gpu["allocatable_bytes"]) == (
        "gpu0",
        "cuda",
        24 * GIB,
        24 * GIB,
    )
    assert (cpu["id"], cpu["claimed_bytes"]) == ("cpu", 0)
    text = str(body)
    assert answer.credential not in text
    assert answer.engine_secret not in text


async def test_what_is_allocatable_counts_claims_and_what_others_use(lone_api: Api, database: Database) -> None:
    used = make_device(total=24 * GIB, reserve=1 * GIB, used=3 * GIB)
    await lone_api.join(make_worker(name="box-full", devices=(used,)))
    (gpu,) = (await shown(lone_api, "box-full"))["devices"]
    assert (gpu["used_bytes"], gpu["allocatable_bytes"]) == (3 * GIB, 20 * GIB)
    placement = await claimed(lone_api, "full-1", "box-full")
    (gpu,) = (await shown(lone_api, "box-full"))["devices"]
    assert gpu["claimed_bytes"] == placement.claimed > 3 * GIB
    assert gpu["allocatable_bytes"] == 23 * GIB - placement.claimed


def claimed_bytes(worker: dict[str, Any]) -> dict[str, int]:
    """By device."""
    return {device["id"]: device["claimed_bytes"] for device in worker["devices"]}


async def claimed(api: Api, instance_id: str, worker: str) -> Placement:
    """An instance that holds claims on the worker."""
    spec = make_spec(devices=((worker, "gpu0"),))
    outcome = await asyncio.to_thread(api.context.ledger.place, make_request(instance_id=instance_id, spec=spec))
    assert isinstance(outcome, Placement), outcome
    return outcome


@pytest.mark.parametrize("token", ["", "wrong", JOIN_TOKEN + "x", JOIN_TOKEN[:-1]])
async def test_a_wrong_join_token_opens_nothing(lone_api: Api, token: str) -> None:
    response = await lone_api.join(make_worker(name="intruder"), token=token)
    assert "wrong join token" in problem_of(response, 401, "unauthorized").detail
    assert response.headers["www-authenticate"] == "Bearer"
    problem_of(await lone_api.admin.get(f"{PATH}/intruder"), 404, "not_found")


async def test_an_admin_key_is_no_join_token_and_a_join_token_no_admin_key(lone_api: Api) -> None:
    key = lone_api.admin.headers["authorization"].removeprefix("Bearer ")
    problem_of(await lone_api.join(make_worker(name="intruder"), token=key), 401, "unauthorized")
    headers = {"authorization": f"Bearer {JOIN_TOKEN}"}
    problem_of(await lone_api.anyone.get(PATH, headers=headers), 401, "unauthorized")


async def test_a_report_needs_the_workers_own_credential(lone_api: Api) -> None:
    worker = make_worker(name="box-mine")
    problem = problem_of(await lone_api.report(worker), 401, "unauthorized")
    assert "'box-mine' has not joined" in problem.detail
    await lone_api.join(worker)
    await lone_api.join(make_worker(name="box-other"))
    for wrong in (lone_api.credentials["box-other"], JOIN_TOKEN, "nonsense"):
        problem = problem_of(await lone_api.report(worker, credential=wrong), 401, "worker_replaced")
        assert "another agent has joined as worker 'box-mine'" in problem.detail
    assert (await lone_api.report(worker)).status_code == 200


async def test_joining_again_ends_the_old_credential_and_keeps_the_engine_secret(
    lone_api: Api, database: Database
) -> None:
    worker = make_worker(name="box-again")
    first = JoinAnswer.model_validate_json((await lone_api.join(worker)).content)
    await claimed(lone_api, "again-1", "box-again")
    second = JoinAnswer.model_validate_json((await lone_api.join(worker)).content)
    assert second.credential != first.credential
    assert second.engine_secret == first.engine_secret, "engines that run there were started with it"
    problem_of(await lone_api.report(worker, credential=first.credential), 401, "worker_replaced")
    assert held(await lone_api.report(worker)) == [("again-1", 1)]


@pytest.mark.parametrize("what", ["join", "report"])
async def test_a_report_of_another_worker_is_refused(lone_api: Api, what: str) -> None:
    await lone_api.join(make_worker(name="box-a"))
    report = {"worker": make_worker(name="box-b").model_dump(mode="json")}
    secret = JOIN_TOKEN if what == "join" else lone_api.credentials["box-a"]
    response = await lone_api.anyone.post(
        f"{PATH}/box-a/{what}", json=report, headers={"authorization": f"Bearer {secret}"}
    )
    assert "of 'box-b', not of 'box-a'" in problem_of(response, 422, "invalid_request").detail


@pytest.mark.parametrize(
    ("worker", "field"),
    [
        ({"name": "Box_1"}, "worker.name"),
        ({"name": "box", "devices": [{"id": "gpu0", "kind": "abacus", "total": 1}]}, "worker.devices.0.kind"),
        ({"name": "box", "devices": [{"id": "gpu0", "kind": "cuda", "total": -1}]}, "worker.devices.0.total"),
    ],
)
async def test_a_senseless_report_names_the_field(lone_api: Api, worker: dict[str, Any], field: str) -> None:
    headers = {"authorization": f"Bearer {JOIN_TOKEN}"}
    response = await lone_api.anyone.post(f"{PATH}/box/join", json={"worker": worker}, headers=headers)
    assert [error.field for error in problem_of(response, 422, "invalid_request").errors] == [field]


async def test_the_answer_says_what_may_run(lone_api: Api) -> None:
    worker = make_worker(name="box-held")
    await lone_api.join(worker)
    assert held(await lone_api.report(worker)) == []
    await claimed(lone_api, "held-2", "box-held")
    await claimed(lone_api, "held-1", "box-held")
    assert held(await lone_api.report(worker)) == [("held-1", 1), ("held-2", 1)]
    await asyncio.to_thread(lone_api.context.ledger.release, "held-2")
    assert held(await lone_api.report(worker)) == [("held-1", 1)]


async def test_what_is_ending_is_free_when_the_worker_says_that_it_is_gone(lone_api: Api) -> None:
    worker = make_worker(name="box-ending")
    await lone_api.join(worker)
    await claimed(lone_api, "ending-1", "box-ending")
    await claimed(lone_api, "ending-2", "box-ending")
    whole = claimed_bytes(await shown(lone_api, "box-ending"))["gpu0"]
    await asyncio.to_thread(lone_api.context.ledger.release, "ending-1", 1, ["box-ending"])
    first, second = (HeldIncarnation(instance_id=f"ending-{number}", incarnation=1) for number in (1, 2))

    async def report(answered: int | None, *running: HeldIncarnation, settled: bool = True) -> ReportAnswer:
        told = WorkerReport(worker=worker, running=running, answered=answered, settled=settled)
        response = await lone_api.anyone.post(
            f"{PATH}/box-ending/report",
            content=told.model_dump_json(),
            headers={
                "authorization": f"Bearer {lone_api.credentials['box-ending']}",
                "content-type": "application/json",
            },
        )
        return ReportAnswer.model_validate_json(response.raise_for_status().content)

    answer = await report(None)
    assert answer.held == (second,)
    assert (await report(answer.version - 1)).version == answer.version, "an old report changes nothing"
    assert (await report(answer.version, first, second)).version == answer.version, "it still runs"
    assert claimed_bytes(await shown(lone_api, "box-ending"))["gpu0"] == whole
    await report(answer.version, second, settled=False)
    assert claimed_bytes(await shown(lone_api, "box-ending"))["gpu0"] == whole // 2
    changed = await report(answer.version)
    assert changed.version > answer.version
    assert changed.held == (second,)


async def test_one_that_has_yet_to_end_what_is_not_its_own_is_not_there(lone_api: Api, database: Database) -> None:
    worker = make_worker(name="box-unsettled")
    await lone_api.join(worker)
    with database.write() as session:
        Workers(session, utc_now().replace(year=2020)).report(worker)
    for settled, state in ((False, "unreachable"), (True, "ready")):
        report = WorkerReport(worker=worker, settled=settled)
        headers = {"authorization": f"Bearer {lone_api.credentials['box-unsettled']}"}
        sent = report.model_dump(mode="json")
        response = await lone_api.anyone.post(f"{PATH}/box-unsettled/report", json=sent, headers=headers)
        assert held(response) == []
        assert (await shown(lone_api, "box-unsettled"))["state"] == state


async def test_devices_that_vanish_take_no_claims_with_them(lone_api: Api) -> None:
    worker = make_worker(name="box-bare")
    await lone_api.join(worker)
    await claimed(lone_api, "bare-1", "box-bare")
    claims = claimed_bytes(await shown(lone_api, "box-bare"))
    assert claims["gpu0"] > 0
    bare = worker.model_copy(update={"devices": (), "engine": None})
    assert held(await lone_api.report(bare)) == [("bare-1", 1)], "its process still runs there, as far as is known"
    body = await shown(lone_api, "box-bare")
    assert (body["devices"], body["engine"]) == ([], None)
    assert held(await lone_api.report(worker)) == [("bare-1", 1)]
    assert claimed_bytes(await shown(lone_api, "box-bare")) == claims


async def test_progress_is_shown_while_an_instance_is_under_way_and_no_longer(
    lone_api: Api, database: Database
) -> None:
    worker = make_worker(name="box-load")
    await lone_api.join(worker)
    await claimed(lone_api, "load-1", "box-load")

    def moved(state: InstanceState) -> None:
        with database.write() as session:
            projection = InstanceProjection(
                instance_id="load-1", deployment="llama", generation=1, incarnation=1, state=state, port=1, pid=1
            )
            Instances(session, utc_now()).put(projection)

    async def progress() -> Any:
        return (await lone_api.admin.get("/api/v1/instances/load-1")).json()["progress"]

    moved(InstanceState.DOWNLOADING)
    await lone_api.report(worker, load_1=Progress(done=1 * GIB, total=4 * GIB, rate=100.0))
    expected = {"done": 1 * GIB, "total": 4 * GIB, "fraction": 0.25, "bytes_per_second": 100.0, "files": []}
    assert await progress() == expected
    await lone_api.join(make_worker(name="box-idle"))
    await lone_api.report(make_worker(name="box-idle"), load_1=Progress(done=1, total=2), unknown_1=Progress())
    assert await progress() == expected, "it is not on that worker"
    moved(InstanceState.RUNNING)
    await lone_api.report(worker, load_1=Progress(done=4 * GIB, total=4 * GIB))
    assert await progress() is None, "the agent's last word came late"


async def test_one_that_is_silent_is_unreachable_until_it_reports(database: Database, lone_api: Api) -> None:
    worker = make_worker(name="box-silent")
    await lone_api.join(worker)
    with database.write() as session:
        long_ago = utc_now().replace(year=2020)
        Workers(session, long_ago).report(worker)
    assert (await shown(lone_api, "box-silent"))["state"] == "unreachable"
    await lone_api.report(worker)
    assert (await shown(lone_api, "box-silent"))["state"] == "ready"


async def test_pages_and_the_watch(lone_api: Api) -> None:
    for name in ("page-a", "page-b", "pagec"):
        await lone_api.join(make_worker(name=name))
    first = (await lone_api.admin.get(PATH, params={"after": "page", "limit": 2})).json()
    assert ([w["name"] for w in first["data"]], first["has_more"], first["last"]) == (
        ["page-a", "page-b"],
        True,
        "page-b",
    )
    rest = (await lone_api.admin.get(PATH, params={"after": "page-b"})).json()
    assert ([w["name"] for w in rest["data"]], rest["has_more"]) == (["pagec"], False)
    problem_of(await lone_api.admin.get(PATH, params={"after": "No Name"}), 422, "invalid_request")
    async with asyncio.timeout(10), lone_api.watch(PATH) as events:
        event = await anext(e async for e in events if e.data["name"] == "page-a")
        assert event.kind == "added"
        await lone_api.join(make_worker(name="page-a", labels={"new": "yes"}))
        event = await anext(e async for e in events if e.data["name"] == "page-a")
        assert (event.kind, event.data["labels"]) == ("modified", {"new": "yes"})


@pytest.mark.parametrize("name", ["nobody", "No_Label"])
async def test_one_that_is_not_there(lone_api: Api, name: str) -> None:
    response = await lone_api.admin.get(f"{PATH}/{name}")
    problem_of(response, 404 if name == "nobody" else 422, "not_found" if name == "nobody" else "invalid_request")


async def test_what_it_can_do_holds_and_runs_is_shown(lone_api: Api) -> None:
    gpu = make_device(compute_capability="8.9", unified=True)
    await lone_api.join(
        make_worker(name="box-able", devices=(gpu,), serves_rpc=True, holds=("hf:org/repo@abc/m.gguf",))
    )
    await claimed(lone_api, "able-2", "box-able")
    await claimed(lone_api, "able-1", "box-able")
    body = await shown(lone_api, "box-able")
    assert (body["serves_rpc"], body["holds"]) == (True, ["hf:org/repo@abc/m.gguf"])
    assert body["instances"] == ["able-1", "able-2"]
    assert (body["devices"][0]["compute_capability"], body["devices"][0]["unified"]) == ("8.9", True)


# --- cordon and drain -----------------------------------------------------------------------------------------------


async def tell(api: Api, name: str, what: str, **query: str) -> httpx.Response:
    return await api.admin.post(f"{PATH}/{name}/{what}", params=query)


async def test_cordon_and_uncordon_may_be_repeated(lone_api: Api) -> None:
    await lone_api.join(make_worker(name="box-closed"))
    for what, state in (("cordon", "cordoned"), ("cordon", "cordoned"), ("uncordon", "ready"), ("uncordon", "ready")):
        answer = await tell(lone_api, "box-closed", what)
        assert (answer.status_code, answer.json()["state"]) == (200, state)
        assert await shown(lone_api, "box-closed") == answer.json()
    assert (await tell(lone_api, "box-closed", "cordon")).status_code == 200
    await lone_api.report(make_worker(name="box-closed"))
    assert (await shown(lone_api, "box-closed"))["state"] == "cordoned", "a report lifts no cordon"


@pytest.mark.parametrize("what", ["cordon", "uncordon", "drain"])
async def test_none_that_is_not_there_is_changed(lone_api: Api, what: str) -> None:
    assert "no worker 'nobody'" in problem_of(await tell(lone_api, "nobody", what), 404, "not_found").detail
    problem_of(await tell(lone_api, "No_Label", what), 422, "invalid_request")


async def test_without_temporal_a_drain_closes_the_worker_and_says_that_nothing_moves(lone_api: Api) -> None:
    await lone_api.join(make_worker(name="box-alone"))
    preview = await tell(lone_api, "box-alone", "drain", dry_run="true")
    assert (preview.status_code, preview.json()["moves"]) == (200, [])
    assert (await shown(lone_api, "box-alone"))["state"] == "ready"
    problem = problem_of(await tell(lone_api, "box-alone", "drain"), 503, "temporal_unavailable")
    assert "box-alone takes nothing new from now on, and what it has stays until it is drained again" in problem.detail
    assert (await shown(lone_api, "box-alone"))["state"] == "draining"
    assert (await tell(lone_api, "box-alone", "uncordon")).json()["state"] == "ready"


async def test_a_worker_is_watched(lone_api: Api) -> None:
    await lone_api.join(make_worker(name="box-seen"))
    await lone_api.join(make_worker(name="box-unseen"))
    async with asyncio.timeout(10), lone_api.watch(f"{PATH}/box-seen") as events:
        event = await anext(events)
        assert (event.kind, event.data["name"], event.data["state"]) == ("added", "box-seen", "ready")
        await tell(lone_api, "box-unseen", "cordon")
        await tell(lone_api, "box-seen", "cordon")
        event = await anext(events)
        assert (event.kind, event.data["name"], event.data["state"]) == ("modified", "box-seen", "cordoned")


# --- those who wait for room are told -------------------------------------------------------------------------------


async def test_room_that_is_gained_wakes_who_waits(api: Api, cluster: Cluster, tiny_model: ModelSource) -> None:
    small, large = cpu_host("w2", total=64 * MIB), cpu_host("w2", total=700 * MIB)
    await cluster.start_agent(small)
    await api.join(small)
    await create(api, tiny_model, "waiting", replicas=2)
    await cluster.instances_in("waiting", [InstanceState.RUNNING, InstanceState.PENDING])

    async def both_run() -> bool:
        await api.report(small)  # as the host's own agent does from time to time
        await api.report(large)
        return [i.state for i in cluster.instances("waiting")] == [InstanceState.RUNNING] * 2

    await eventually_async(both_run, "the one that waits is placed on w2")
    placements = [instance.placement for instance in cluster.instances("waiting")]
    assert {placement.worker for placement in placements if placement} == {"w1", "w2"}


@pytest.mark.parametrize(
    ("change", "gains"),
    [
        ({}, False),
        ({"devices": (make_device(used=1 * GIB),)}, False),
        ({"devices": ()}, False),
        ({"os": "another"}, False),
        ({"devices": (make_device(total=25 * GIB),)}, True),
        ({"devices": (make_device(), make_device(id="gpu1"))}, True),
        ({"labels": {"zone": "a"}}, True),
        ({"engine": Engine(kind=EngineKind.BUNDLED, version="b2")}, True),
    ],
)
async def test_only_a_report_of_more_room_looks_for_who_waits(
    lone_api: Api, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], gains: bool
) -> None:
    worker = make_worker(name="box-same", devices=(make_device(),))
    await lone_api.join(worker)
    looks = 0

    def wakeable(_: ClaimLedger) -> tuple[str, ...]:
        nonlocal looks
        looks += 1
        return ()

    monkeypatch.setattr(ClaimLedger, "wakeable", wakeable)
    assert (await lone_api.report(worker.model_copy(update=change))).status_code == 200
    assert looks == gains


async def test_those_who_wait_cannot_be_told_while_temporal_is_away_and_the_report_counts(
    lone_api: Api, database: Database
) -> None:
    spec = make_spec(name="later", devices=(("box-later", "gpu0"),))
    request = make_request(instance_id="later-1", spec=spec)
    assert not isinstance(await asyncio.to_thread(lone_api.context.ledger.place, request), Placement)
    worker = Worker(
        name="box-later",
        devices=(make_device(kind=DeviceKind.CUDA),),
        engine=Engine(kind=EngineKind.NATIVE, version="b1"),
    )
    assert (await lone_api.join(worker)).status_code == 200
    assert lone_api.context.ledger.wakeable() == ("later-1",)
    assert held(await lone_api.report(worker)) == []


# --- a drain that moves something: last, since its machines have room for others -----------------------------------


async def test_a_drain_moves_what_runs_there_and_uncordon_calls_it_off(
    api: Api, cluster: Cluster, tiny_model: ModelSource
) -> None:
    for name in ("d1", "d2"):
        await cluster.add_host(cpu_host(name, total=700 * MIB).model_copy(update={"labels": {"pool": "drained"}}))
    await create(api, tiny_model, "moving", replicas=1, worker_selector={"pool": "drained"})
    (before,) = await cluster.instances_in("moving", [InstanceState.RUNNING])
    assert before.placement is not None
    here = before.placement.worker
    there = {"d1": "d2", "d2": "d1"}[here]

    preview = (await tell(api, here, "drain", dry_run="true")).json()
    assert preview["fits"]
    assert [(move["instance"], move["placement"]["worker"]) for move in preview["moves"]] == [
        (before.instance_id, there)
    ]
    assert (await shown(api, here))["state"] == "ready"
    begun = await tell(api, here, "drain")
    assert (begun.status_code, begun.headers["location"], begun.json()) == (202, f"{PATH}/{here}", preview)

    async def is_empty() -> bool:
        body = await shown(api, here)
        assert body["state"] == "draining"
        return not body["instances"]

    await eventually_async(is_empty, f"{here} is empty")
    (after,) = await cluster.instances_in("moving", [InstanceState.RUNNING])
    assert after.placement is not None
    assert (after.placement.worker, after.instance_id != before.instance_id) == (there, True)
    again = await tell(api, here, "drain")
    assert (again.status_code, again.json()["moves"]) == (202, [])

    assert (await tell(api, here, "uncordon")).json()["state"] == "ready"
    await api.admin.patch("/api/v1/deployments/moving", json={"replicas": 2})
    await cluster.instances_in("moving", [InstanceState.RUNNING] * 2)
    stuck = (await tell(api, here, "drain")).json()
    assert (stuck["fits"], stuck["moves"][0]["placement"]) == (False, None)
    assert stuck["moves"][0]["pending"]["summary"]
    await cluster.instances_in("moving", [InstanceState.RUNNING, InstanceState.PENDING])
    await tell(api, here, "uncordon")
    await cluster.instances_in("moving", [InstanceState.RUNNING] * 2)
    await removed(api, cluster, "moving")
