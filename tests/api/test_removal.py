"""`DELETE /api/v1/workers/{name}`: what becomes of the worker, and of who uses it."""

from typing import Any

import httpx
import pytest
from sqlalchemy import text
from temporalio.client import WorkflowHandle

from stoker.domain.deployments import InstanceState
from stoker.domain.models import ModelSource
from stoker.domain.naming import WORKER_LOST_SIGNAL, instance_workflow_id
from stoker.domain.units import MIB
from stoker.domain.workers import Worker
from stoker.storage.removal import holders_of
from stoker.storage.workers import Workers
from tests.api.serving import Api
from tests.api.test_certificates import certified
from tests.api.test_deployments import create, problem_of, removed
from tests.api.test_join_tokens import make
from tests.api.test_workers import PATH, claimed, shown, tell
from tests.builders import make_worker
from tests.cluster import Cluster, eventually_async
from tests.workflows.conftest import cpu_host

pytestmark = pytest.mark.anyio


async def remove(api: Api, name: str, **query: str) -> httpx.Response:
    """As an administrator does."""
    return await api.admin.delete(f"{PATH}/{name}", params=query)


async def test_an_empty_worker_is_removed_and_its_credential_opens_nothing(lone_api: Api) -> None:
    await lone_api.join(make_worker(name="gone-1"))
    await certified(lone_api, "gone-1")
    answer = await remove(lone_api, "gone-1")
    assert (answer.status_code, answer.json()) == (
        200,
        {"name": "gone-1", "instances": [], "certificates_revoked": 1},
    )
    problem_of(await lone_api.admin.get(f"{PATH}/gone-1"), 404, "not_found")
    problem_of(await lone_api.report(make_worker(name="gone-1")), 401, "worker_removed")
    problem_of(await remove(lone_api, "gone-1"), 404, "not_found")


@pytest.mark.parametrize("query", [{}, {"force": "true"}])
@pytest.mark.parametrize(
    ("name", "status", "code"), [("nobody", 404, "not_found"), ("No_Name", 422, "invalid_request")]
)
async def test_none_that_is_not_there(lone_api: Api, query: dict[str, str], name: str, status: int, code: str) -> None:
    problem_of(await remove(lone_api, name, **query), status, code)


async def test_one_that_holds_something_is_refused_by_name(lone_api: Api) -> None:
    await lone_api.join(make_worker(name="gone-used"))
    for instance_id in ("used-b", "used-a"):
        await claimed(lone_api, instance_id, "gone-used")
    problem = problem_of(await remove(lone_api, "gone-used"), 409, "worker_in_use")
    assert "gone-used still holds something of 2 instances (used-a, used-b): drain it first" in problem.detail
    assert (await shown(lone_api, "gone-used"))["state"] == "ready"
    lone_api.context.ledger.release("used-a")
    lone_api.context.ledger.release("used-b")
    assert (await remove(lone_api, "gone-used")).status_code == 200


async def test_without_temporal_one_in_use_stays_and_gets_nothing_new(lone_api: Api) -> None:
    await lone_api.join(make_worker(name="gone-away"))
    await claimed(lone_api, "away-1", "gone-away")
    problem = problem_of(await remove(lone_api, "gone-away", force="true"), 503, "temporal_unavailable")
    assert "gone-away takes nothing new from now on, and is still there" in problem.detail
    assert (await shown(lone_api, "gone-away"))["state"] == "cordoned"
    lone_api.context.ledger.release("away-1")
    assert (await remove(lone_api, "gone-away", force="true")).status_code == 200, "nobody need be told"


async def test_a_report_that_comes_while_it_is_removed(lone_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await lone_api.join(make_worker(name="gone-now"))
    report = Workers.report

    def overtaken(workers: Workers, worker: Worker, *, settled: bool, before: dict[str, Any] | None) -> bool:
        assert before is not None, "it was there when the report came"
        workers._session.execute(text("DELETE FROM worker WHERE name = 'gone-now'"))
        return report(workers, worker, settled=settled, before=before)

    monkeypatch.setattr(Workers, "report", overtaken)
    problem_of(await lone_api.report(make_worker(name="gone-now")), 401, "worker_removed")


async def test_the_token_that_it_joined_with_lets_it_in_no_more(lone_api: Api) -> None:
    token = (await make(lone_api))["token"]
    await lone_api.join(make_worker(name="gone-token"), token)
    assert (await remove(lone_api, "gone-token")).status_code == 200
    problem_of(await lone_api.join(make_worker(name="gone-token"), token), 401, "join_token_unknown")
    another = (await make(lone_api))["token"]
    assert (await lone_api.join(make_worker(name="gone-token"), another)).status_code == 200


async def test_a_drain_of_it_ends(api: Api, cluster: Cluster) -> None:
    await cluster.add_host(cpu_host("r1", total=700 * MIB))
    assert (await tell(api, "r1", "drain")).status_code == 202
    assert (await remove(api, "r1")).status_code == 200
    handle = cluster.client.get_workflow_handle("drain/r1")
    assert not (await handle.result())["called_off"]


async def test_who_uses_it_is_told_that_it_is_lost_and_goes_on_elsewhere(
    api: Api, cluster: Cluster, tiny_model: ModelSource
) -> None:
    for name in ("r2", "r3"):
        await cluster.add_host(cpu_host(name, total=700 * MIB).model_copy(update={"labels": {"pool": "removed"}}))
    await create(api, tiny_model, "leaving", replicas=1, worker_selector={"pool": "removed"})
    (before,) = await cluster.instances_in("leaving", [InstanceState.RUNNING])
    assert before.placement is not None
    here = before.placement.worker
    problem_of(await remove(api, here), 409, "worker_in_use")
    answer = await remove(api, here, force="true")
    assert answer.json()["instances"] == [before.instance_id]
    problem_of(await api.admin.get(f"{PATH}/{here}"), 404, "not_found")
    with cluster.database.read() as session:
        assert holders_of(session, here) == ()

    async def is_elsewhere() -> bool:
        (now,) = cluster.instances("leaving")
        return now.state is InstanceState.RUNNING and now.placement is not None and now.placement.worker != here

    await eventually_async(is_elsewhere, "the instance runs on the other host")
    handle = cluster.client.get_workflow_handle(instance_workflow_id(before.instance_id))
    signals = [
        event.workflow_execution_signaled_event_attributes.signal_name
        async for event in (await _first_run(cluster, handle.id)).fetch_history_events()
        if event.HasField("workflow_execution_signaled_event_attributes")
    ]
    assert WORKER_LOST_SIGNAL in signals
    await removed(api, cluster, "leaving")


async def _first_run(cluster: Cluster, workflow_id: str) -> WorkflowHandle[Any, Any]:
    """The incarnation that was told."""
    runs = [run async for run in cluster.client.list_workflows(f"WorkflowId = '{workflow_id}'")]
    first = min(runs, key=lambda run: run.start_time)
    return cluster.client.get_workflow_handle(workflow_id, run_id=first.run_id)
