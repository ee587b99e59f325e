"""Changes of deployments over REST: what one would do, what they were, and taking one back."""

from typing import Any

import httpx
import pytest

from stoker.domain.deployments import InstanceState
from stoker.domain.models import ModelSource
from tests.api.serving import Api
from tests.api.test_deployments import PATH, create, problem_of, removed
from tests.cluster import Cluster

pytestmark = pytest.mark.anyio

RUNNING = InstanceState.RUNNING


def body_of(model: ModelSource, name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "model": str(model), "replicas": 0} | fields


async def planned(api: Api, model: ModelSource, name: str, **fields: Any) -> dict[str, Any]:
    """What a POST would do."""
    answer = await api.admin.post(PATH, json=body_of(model, name, **fields), params={"dry_run": True})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def revisions(api: Api, name: str) -> list[dict[str, Any]]:
    """The first one first."""
    found: list[dict[str, Any]] = (await api.admin.get(f"{PATH}/{name}/revisions")).raise_for_status().json()["data"]
    return list(reversed(found))


async def undo(api: Api, name: str, **body: Any) -> httpx.Response:
    return await api.admin.post(f"{PATH}/{name}/undo", json=body)


async def test_a_plan_of_a_new_one_says_where_it_would_go_and_makes_nothing(
    api: Api, cluster: Cluster, tiny_model: ModelSource
) -> None:
    plan = await planned(api, tiny_model, "planned", replicas=2)
    assert (plan["action"], plan["generation"], plan["started"], plan["replaced"]) == ("create", 0, 2, 0)
    assert (plan["changes"], plan["pending"], plan["makes_room"]) == ([], None, None)
    assert plan["placement"]["worker"] == "w1"
    assert plan["on_cpu_bytes"] == plan["placement"]["claimed_bytes"]
    assert plan["on_gpu_bytes"] > 0
    problem_of(await api.admin.get(f"{PATH}/planned"), 404, "not_found")
    assert cluster.claims() == ()


async def test_a_plan_of_a_change_says_who_makes_room(api: Api, cluster: Cluster, tiny_model: ModelSource) -> None:
    await create(api, tiny_model, "rolls", replicas=1)  # there is room for one
    (instance,) = await cluster.instances_in("rolls", [RUNNING])
    assert (await planned(api, tiny_model, "rolls", replicas=1))["action"] == "none"

    change = {"options": {"slots": 2}, "priority": 3}
    answer = await api.admin.patch(f"{PATH}/rolls", json=change, params={"dry_run": True})
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert plan["action"] == "change"
    assert plan["changes"] == [
        {"field": "priority", "before": 0, "after": 3},
        {"field": "options.slots", "before": 4, "after": 2},
    ]
    assert (plan["replaces_instances"], plan["replaced"], plan["started"], plan["surge"]) == (True, 1, 0, 1)
    assert plan["placement"]["worker"] == "w1"
    assert plan["makes_room"] == instance.instance_id

    more = await planned(api, tiny_model, "rolls", replicas=2)
    assert (more["replaces_instances"], more["replaced"], more["started"], more["surge"]) == (False, 0, 1, 0)
    assert more["placement"] is None
    assert more["pending"]["summary"]

    stale = await api.admin.patch(f"{PATH}/rolls", json=change, params={"dry_run": True}, headers={"if-match": '"9"'})
    problem_of(stale, 412, "generation_conflict")
    assert (await api.admin.get(f"{PATH}/rolls")).json()["generation"] == 1
    await removed(api, cluster, "rolls")


async def test_a_plan_of_taking_back_what_rolls_says_that_the_old_one_stays(
    api: Api, cluster: Cluster, tiny_model: ModelSource
) -> None:
    await create(api, tiny_model, "back", replicas=1)
    await cluster.instances_in("back", [RUNNING])
    nowhere = {"worker_selector": {"zone": "moon"}}
    (await api.admin.patch(f"{PATH}/back", json=nowhere)).raise_for_status()
    await cluster.instances_in("back", [RUNNING, InstanceState.PENDING])
    plan = await planned(api, tiny_model, "back", replicas=1)
    assert (plan["action"], plan["replaces_instances"], plan["replaced"]) == ("change", False, 0)
    assert (plan["started"], plan["stopped"], plan["makes_room"]) == (0, 1, None)
    assert (plan["placement"], plan["pending"]) == (None, None)
    await removed(api, cluster, "back")


async def test_a_plan_of_what_can_never_run_is_refused(api: Api, tiny_model: ModelSource) -> None:
    body = body_of(tiny_model, "planned", options={"context_length": 10_000_000})
    problem_of(await api.admin.post(PATH, json=body, params={"dry_run": True}), 422, "unsupported_model")


async def test_what_was_wanted_is_told_and_wanted_again(api: Api, cluster: Cluster, tiny_model: ModelSource) -> None:
    await create(api, tiny_model, "undone", replicas=1)
    await cluster.instances_in("undone", [RUNNING])
    problem_of(await undo(api, "undone"), 409, "nothing_to_undo")
    await api.admin.patch(f"{PATH}/undone", json={"priority": 5})
    first, second = await revisions(api, "undone")
    assert (first["generation"], first["state"], first["ran"], first["changes"]) == (1, "superseded", True, [])
    assert (second["generation"], second["state"], second["ran"]) == (2, "current", True)
    assert second["changes"] == [{"field": "priority", "before": 0, "after": 5}]
    assert first["by"] == second["by"] != ""
    assert second["deployment"] == first["deployment"] | {"priority": 5}

    again = await undo(api, "undone")
    assert again.status_code == 200, again.text
    assert (again.headers["etag"], again.json()["priority"]) == ('"3"', 0)
    assert (await undo(api, "undone", generation=2)).json()["priority"] == 5
    assert [one["reason"] for one in await revisions(api, "undone")] == [
        "",
        "",
        "generation 1 again",
        "generation 2 again",
    ]
    problem = problem_of(await undo(api, "undone", generation=9), 404, "not_found")
    assert problem.detail == "undone has no revision of generation 9; there are 1, 2, 3, 4"
    await removed(api, cluster, "undone")
    problem_of(await undo(api, "undone"), 404, "not_found")
    problem_of(await api.admin.get(f"{PATH}/undone/revisions"), 404, "not_found")
