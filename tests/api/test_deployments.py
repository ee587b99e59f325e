"""`/api/v1/deployments`, in front of a real control plane and a host that really serves."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest
from temporalio.service import RPCError, RPCStatusCode

from api import deployment_calls
from api.errors import Problem
from stoker.domain.deployments import InstanceState
from stoker.domain.models import ModelSource
from tests.api.serving import Api
from tests.builders import make_worker
from tests.cluster import Cluster

pytestmark = pytest.mark.anyio

PATH = "/api/v1/deployments"


async def create(api: Api, model: ModelSource, name: str, **fields: Any) -> httpx.Response:
    """Creates one that wants no replicas, if not told otherwise: it exists at once and needs no engine."""
    return await api.admin.post(PATH, json={"name": name, "model": str(model), "replicas": 0} | fields)


def problem_of(response: httpx.Response, status: int, code: str) -> Problem:
    """The refusal, of that kind."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(response.content)
    assert (problem.status, problem.code) == (status, code)
    return problem


async def removed(api: Api, cluster: Cluster, *names: str) -> None:
    """Deletes them, and waits until they are gone."""
    for name in names:
        assert (await api.admin.delete(f"{PATH}/{name}")).status_code == 202
    for name in names:
        await cluster.gone(name)


async def test_a_deployment_is_made_served_and_removed(api: Api, cluster: Cluster, tiny_model: ModelSource) -> None:
    made = await create(api, tiny_model, "life", replicas=1)
    assert made.status_code == 201
    assert made.headers["location"] == f"{PATH}/life"
    assert made.headers["etag"] == '"1"'
    body = made.json()
    assert (body["name"], body["model"], body["generation"]) == ("life", str(tiny_model), 1)
    assert body["model_info"]["architecture"] == "llama"
    assert body["model_info"]["size_bytes"] == body["model_info"]["files"][0]["size_bytes"] > 0

    await cluster.instances_in("life", [InstanceState.RUNNING])
    shown = (await api.admin.get(f"{PATH}/life")).json()
    assert (shown["state"], shown["running"], shown["message"]) == ("running", 1, "all replicas answer")
    (instance,) = shown["instances"]
    assert instance["placement"]["worker"] == "w1"
    assert instance["placement"]["claimed_bytes"] == sum(s["claimed_bytes"] for s in instance["placement"]["shares"])
    assert instance["pid"] > 0

    gone = await api.admin.delete(f"{PATH}/life")
    assert gone.status_code == 202
    assert gone.headers["location"] == f"{PATH}/life"
    assert gone.json()["state"] == "deleting"
    problem_of(await create(api, tiny_model, "life"), 409, "deployment_deleting")
    problem_of(await api.admin.patch(f"{PATH}/life", json={"replicas": 2}), 409, "deployment_deleting")
    assert (await api.admin.delete(f"{PATH}/life")).status_code == 202, "again is fine"
    await cluster.gone("life")
    problem_of(await api.admin.get(f"{PATH}/life"), 404, "not_found")


async def test_what_waits_says_why_in_numbers(api: Api, cluster: Cluster, tiny_model: ModelSource) -> None:
    await create(api, tiny_model, "large", replicas=2)  # there is room for one
    await cluster.instances_in("large", [InstanceState.RUNNING, InstanceState.PENDING])
    shown = (await api.admin.get(f"{PATH}/large")).json()
    assert (shown["state"], shown["running"]) == ("pending", 1)
    (instance,) = (instance for instance in shown["instances"] if instance["state"] == "pending")
    assert instance["placement"] is None
    (rejection,) = instance["pending"]["rejections"]
    assert (rejection["rule"], rejection["worker"], rejection["device"]) == ("not_enough_memory", "w1", "cpu")
    assert rejection["short_bytes"] == rejection["needed_bytes"] - rejection["available_bytes"] > 0
    assert shown["message"] == instance["message"] == instance["pending"]["summary"]
    await removed(api, cluster, "large")


async def test_the_same_post_again_changes_nothing_and_another_changes(
    api: Api, cluster: Cluster, tiny_model: ModelSource
) -> None:
    assert (await create(api, tiny_model, "twice")).status_code == 201
    again = await create(api, tiny_model, "twice")
    assert (again.status_code, again.headers["etag"]) == (200, '"1"')
    changed = await create(api, tiny_model, "twice", priority=5)
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    assert changed.json()["priority"] == 5
    await removed(api, cluster, "twice")


async def test_a_repeated_call_with_an_idempotency_key_has_one_effect(
    api: Api, cluster: Cluster, tiny_model: ModelSource
) -> None:
    headers = {"idempotency-key": "first try"}
    first = await api.admin.post(PATH, json=body_of(tiny_model, "once"), headers=headers)
    await api.admin.patch(f"{PATH}/once", json={"priority": 7})
    again = await api.admin.post(PATH, json=body_of(tiny_model, "once"), headers=headers)
    assert (first.status_code, again.status_code) == (201, 201), "the answer to the same call is the same"
    assert again.json()["priority"] == 7, "the late repetition does not undo what came after it"
    other = await api.admin.post(PATH, json=body_of(tiny_model, "once", priority=9), headers=headers)
    assert (other.status_code, other.json()["priority"]) == (200, 9), "another body is another call"
    await removed(api, cluster, "once")


def body_of(model: ModelSource, name: str, **fields: Any) -> dict[str, Any]:
    """What `create` sends."""
    return {"name": name, "model": str(model), "replicas": 0} | fields


async def test_how_many_demand_may_ask_for_can_be_changed_and_given_up(
    api: Api, cluster: Cluster, tiny_model: ModelSource
) -> None:
    made = (await create(api, tiny_model, "sleeper", min_replicas=0, max_replicas=3, idle_timeout=60)).json()
    assert (made["state"], made["wanted"], made["message"]) == ("stopped", 0, "it sleeps: the first request starts it")
    assert (await api.context.routes.refresh()).models["sleeper"].sleeps
    refused = await api.admin.patch(f"{PATH}/sleeper", json={"min_replicas": 4})
    problem = problem_of(refused, 422, "invalid_request")
    assert [(error.field, error.message) for error in problem.errors] == [
        ("max_replicas", "it is 3 and min_replicas is 4: make it 4 or more")
    ]
    changed = (await api.admin.patch(f"{PATH}/sleeper", json={"min_replicas": None, "max_replicas": None})).json()
    assert (changed["min_replicas"], changed["max_replicas"], changed["idle_timeout"]) == (None, None, 60)
    assert (changed["generation"], changed["instances_generation"]) == (2, 1), "no instance restarts"
    assert changed["message"] == "no replicas are wanted"
    assert not (await api.context.routes.refresh()).models["sleeper"].sleeps
    await removed(api, cluster, "sleeper")


async def test_another_queue_takes_the_place_of_the_old_one_and_no_instance_restarts(
    api: Api, cluster: Cluster, tiny_model: ModelSource
) -> None:
    made = await create(api, tiny_model, "queued")
    assert (made.json()["queue"], made.json()["instances_generation"]) == (128, 1)
    changed = await api.admin.patch(f"{PATH}/queued", json={"queue": 0})
    assert (changed.json()["queue"], changed.json()["generation"], changed.json()["instances_generation"]) == (0, 2, 1)
    assert (await api.context.routes.refresh()).models["queued"].queue == 0
    for wrong in (-1, 100_001, None):
        problem = problem_of(await api.admin.patch(f"{PATH}/queued", json={"queue": wrong}), 422, "invalid_request")
        assert [error.field for error in problem.errors] == ["queue"]
    await removed(api, cluster, "queued")


async def test_a_patch_changes_only_what_it_names(api: Api, cluster: Cluster, tiny_model: ModelSource) -> None:
    options = {"slots": 2, "context_length": 1024, "batch": 256}
    await create(api, tiny_model, "patched", options=options, priority=3)
    changed = await api.admin.patch(f"{PATH}/patched", json={"options": {"slots": 8, "context_length": None}})
    assert changed.status_code == 200
    assert changed.headers["etag"] == '"2"'
    body = changed.json()
    assert body["options"] == {
        "slots": 8,
        "context_length": None,  # null is a value of this option: what Stoker chooses
        "batch": 256,
        "cache_type": "f16",
        "cache_type_v": None,
        "flash_attention": True,
        "kv_unified": False,
        "micro_batch": 512,
        "threads": None,
        "embeddings": False,
    }
    assert (body["priority"], body["replicas"], body["model"]) == (3, 0, str(tiny_model))
    nothing = await api.admin.patch(f"{PATH}/patched", json={})
    assert (nothing.status_code, nothing.headers["etag"]) == (200, '"2"')
    await removed(api, cluster, "patched")


async def test_what_narrows_placement_is_kept_and_cleared(api: Api, cluster: Cluster, tiny_model: ModelSource) -> None:
    narrow = {
        "devices": ["w1:cpu:0", "w9:cuda:1", "w1/cpu"],
        "distributed": False,
        "cpu_offload": True,
        "gpu_layers": 3,
        "tensor_split": [2, 1],
        "min_compute_capability": "8.0",
        "overcommit": True,
    }
    made = (await create(api, tiny_model, "narrow", **narrow)).json()
    assert {field: made[field] for field in narrow} == narrow | {"devices": ["w1/cpu", "w9/gpu1"]}
    clear: dict[str, Any] = {
        "gpu_layers": None,
        "tensor_split": [],
        "min_compute_capability": None,
        "overcommit": False,
        "devices": [],
    }
    changed = (await api.admin.patch(f"{PATH}/narrow", json=clear)).json()
    assert {field: changed[field] for field in clear} == clear
    assert (changed["distributed"], changed["cpu_offload"], changed["generation"]) == (False, True, 2)
    await removed(api, cluster, "narrow")


async def test_a_device_of_another_kind_is_told_by_its_right_name(lone_api: Api) -> None:
    await lone_api.join(make_worker(name="box-1"))
    body = {"name": "bad", "model": "hf:org/repo", "devices": ["box-1:rocm:0", "box-1:cpu:0", "box-2:rocm:0"]}
    problem = problem_of(await lone_api.admin.post(PATH, json=body), 422, "invalid_request")
    (error,) = problem.errors
    assert error.field == "devices"
    assert error.message == "'box-1:rocm:0': gpu0 of box-1 is driven by cuda: write box-1:cuda:0"


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"replicas": None}, "replicas", "leave a field out to keep it"),
        ({"options": None}, "options", "null is no value"),
        ({"replicas": -1}, "replicas", "greater than or equal to 0"),
        ({"name": "other"}, "name", "not permitted"),
        ({"options": {"slotz": 4}}, "options.slotz", "not permitted"),
        ({"options": {"slots": 0}}, "options.slots", "greater than or equal to 1"),
        ({"options": {"cache_type": "q3"}}, "options.cache_type", "'f32', 'f16', 'bf16', 'q8_0', "),
        ({"model": "ftp:/x.gguf"}, "model", "write file:/path/to/model.gguf, hf:ORG/REPO"),
        ({"model": "https://h.test/m.gguf"}, "model", "can only be estimated yet"),
        ({"tensor_split": None}, "tensor_split", "leave a field out to keep it"),
        ({"tensor_split": [3], "gpu_layers": 4}, "tensor_split", "its sum is 3 and gpu_layers is 4"),
        ({"overcommit": True}, "overcommit", "name them in devices"),
    ],
)
async def test_a_wrong_patch_names_the_field(
    api: Api, cluster: Cluster, tiny_model: ModelSource, change: dict[str, Any], field: str, words: str
) -> None:
    await create(api, tiny_model, "kept")
    problem = problem_of(await api.admin.patch(f"{PATH}/kept", json=change), 422, "invalid_request")
    assert [error.field for error in problem.errors] == [field]
    assert words in problem.errors[0].message
    assert f"{field}: " in problem.detail
    assert (await api.admin.get(f"{PATH}/kept")).headers["etag"] == '"1"'


@pytest.mark.parametrize(
    ("wrong", "field", "value", "words"),
    [
        ({"name": "Not-A-Label"}, "name", "Not-A-Label", "lower-case letters"),
        ({"name": "a" * 49}, "name", "a" * 49, "at most 48"),
        ({"name": "line\n"}, "name", "line\n", "lower-case letters"),
        ({"name": None}, "name", None, "valid string"),
        ({"replicas": -3}, "replicas", -3, "greater than or equal to 0"),
        ({"replicas": 1001}, "replicas", 1001, "less than or equal to 1000"),
        ({"replicas": "many"}, "replicas", "many", "must be an integer, not a text"),
        ({"model": "file:relative.gguf"}, "model", "file:relative.gguf", "absolute path"),
        ({"model": "file:/etc/passwd"}, "model", "file:/etc/passwd", ".gguf"),
        ({"model": "file:/a/../b.gguf"}, "model", "file:/a/../b.gguf", "'..'"),
        ({"model": "hf:just-a-name"}, "model", "hf:just-a-name", "ORG/REPO"),
        ({"model": "x" * 5000}, "model", "x" * 200 + "…", "at most 4096"),
        ({"strategy": "pile"}, "strategy", "pile", "'spread' or 'binpack'"),
        ({"worker_selector": {"bad key!": "x"}}, "worker_selector.bad key!.[key]", "bad key!", "pattern"),
        ({"worker_selector": {"zone": "v" * 64}}, "worker_selector.zone", "v" * 64, "at most 63"),
        ({"devices": ["gpu0"]}, "devices", None, "write WORKER:KIND:INDEX, as in box-1:cuda:0"),
        ({"devices": ["box-1:tpu:0"]}, "devices", None, "(cuda, rocm, metal, vulkan) or box-1:cpu:0, or WORKER/DEVICE"),
        ({"devices": ["box-1:cpu:1"]}, "devices", None, "a worker's CPU is one device, box-1:cpu:0"),
        ({"gpu_layers": -1}, "gpu_layers", -1, "greater than or equal to 0"),
        ({"tensor_split": [3, 0]}, "tensor_split.1", 0, "greater than or equal to 1"),
        ({"tensor_split": [1] * 16}, "tensor_split", None, "it names 16 devices, and llama.cpp takes at most 15"),
        ({"tensor_split": [3, 4], "gpu_layers": 8}, "tensor_split", None, "its sum is 7 and gpu_layers is 8"),
        (
            {"tensor_split": [3, 4], "devices": ["box-1:cuda:0"]},
            "tensor_split",
            None,
            "it is for 2 devices, and devices names 1",
        ),
        ({"min_compute_capability": "8"}, "min_compute_capability", "8", "write major and minor number, as in 8.0"),
        ({"overcommit": True}, "overcommit", True, "name them in devices, as in box-1:cuda:0"),
        ({"distributed": "sometimes"}, "distributed", "sometimes", "valid boolean"),
        ({"devices": ["Box_1/gpu0"]}, "devices", None, "'Box_1/gpu0' is no device"),
        ({"devices": ["box-1/gpu0\n"]}, "devices", None, "is no device"),
        ({"temperature": 0.5}, "temperature", 0.5, "not permitted"),
        ({"options": {"context_length": 1}}, "options.context_length", 1, "greater than or equal to 128"),
    ],
)
async def test_wrong_input_names_the_field_the_value_and_what_would_be_right(
    lone_api: Api, wrong: dict[str, Any], field: str, value: Any, words: str
) -> None:
    body = {"name": "bad", "model": "hf:org/repo"} | wrong
    problem = problem_of(await lone_api.admin.post(PATH, json=body), 422, "invalid_request")
    (error,) = problem.errors
    assert (error.field, error.value) == (field, value)
    assert words in error.message
    assert f"{field}: {error.message}" == problem.detail


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("file:{folder}/nothing.gguf", "file_not_found", "nothing.gguf"),
        ("file:{folder}/text.gguf", "not_gguf", "GGUF"),
        ("file:{folder}/half.gguf", "truncated_gguf", "half.gguf"),
        ("file:/elsewhere.gguf", "path_not_allowed", "/elsewhere.gguf"),
    ],
)
async def test_a_model_that_cannot_be_read_is_refused_and_leaves_nothing(
    api: Api, cluster: Cluster, tiny_model: ModelSource, model: str, code: str, words: str
) -> None:
    (cluster.folder / "text.gguf").write_text("no model")
    whole = (cluster.folder / "tiny.gguf").read_bytes()
    (cluster.folder / "half.gguf").write_bytes(whole[:1000])
    source = model.format(folder=cluster.folder)
    response = await api.admin.post(PATH, json={"name": "bad", "model": source, "replicas": 1})
    assert words in problem_of(response, 422, code).detail
    problem_of(await api.admin.get(f"{PATH}/bad"), 404, "not_found")
    assert "bad" not in [status.spec.name for status in cluster.deployments()]


@pytest.mark.parametrize("if_match", ['"1"', "1", 'W/"1"'])
async def test_if_match_guards_against_undoing_somebody_elses_change(
    api: Api, cluster: Cluster, tiny_model: ModelSource, if_match: str
) -> None:
    await create(api, tiny_model, "guarded", priority=1)
    await api.admin.patch(f"{PATH}/guarded", json={"priority": 2})
    headers = {"if-match": if_match}
    for response in (
        await api.admin.patch(f"{PATH}/guarded", json={"priority": 3}, headers=headers),
        await api.admin.delete(f"{PATH}/guarded", headers=headers),
    ):
        assert "generation 2, not 1" in problem_of(response, 412, "generation_conflict").detail
    shown = await api.admin.get(f"{PATH}/guarded")
    assert (shown.json()["priority"], shown.json()["state"]) == (2, "stopped")
    right = {"if-match": shown.headers["etag"]}
    assert (await api.admin.patch(f"{PATH}/guarded", json={"priority": 4}, headers=right)).status_code == 200
    assert (await api.admin.delete(f"{PATH}/guarded", headers={"if-match": "*"})).status_code == 202
    await cluster.gone("guarded")


@pytest.mark.parametrize("if_match", [b"", b"three", b'"3', b"\xb2", b'"' + b"9" * 5000 + b'"', b'"1", "2"'])
async def test_an_if_match_that_is_no_etag_is_refused(lone_api: Api, if_match: bytes) -> None:
    response = await lone_api.admin.request("DELETE", f"{PATH}/any", headers={b"if-match": if_match})
    assert "no ETag" in problem_of(response, 422, "invalid_request").detail


async def test_changes_at_the_same_moment_all_count(api: Api, cluster: Cluster, tiny_model: ModelSource) -> None:
    await create(api, tiny_model, "busy")
    changes = [{"priority": 9}, {"strategy": "binpack"}, {"options": {"slots": 3}}]
    answers = await asyncio.gather(*(api.admin.patch(f"{PATH}/busy", json=change) for change in changes))
    assert [answer.status_code for answer in answers] == [200, 200, 200], [answer.text for answer in answers]
    shown = (await api.admin.get(f"{PATH}/busy")).json()
    assert (shown["priority"], shown["strategy"], shown["options"]["slots"]) == (9, "binpack", 3)
    assert shown["generation"] == 4
    await removed(api, cluster, "busy")


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_what_is_not_there_is_not_found(lone_api: Api, method: str) -> None:
    response = await lone_api.admin.request(method, f"{PATH}/nobody", json={} if method == "PATCH" else None)
    assert "no deployment 'nobody'" in problem_of(response, 404, "not_found").detail


async def test_a_name_in_the_path_is_checked_too(lone_api: Api) -> None:
    problem = problem_of(await lone_api.admin.get(f"{PATH}/Not_A_Label"), 422, "invalid_request")
    assert (problem.errors[0].field, problem.errors[0].value) == ("name", "Not_A_Label")


async def test_pages(api: Api, cluster: Cluster, tiny_model: ModelSource) -> None:
    names = ["page-1", "page-2", "page-3"]
    for name in names:
        await create(api, tiny_model, name)
    first = (await api.admin.get(PATH, params={"limit": 2, "after": "page"})).json()
    assert [item["name"] for item in first["data"]] == names[:2]
    assert (first["has_more"], first["last"]) == (True, "page-2")
    second = (await api.admin.get(PATH, params={"limit": 2, "after": first["last"]})).json()
    assert [item["name"] for item in second["data"]] == names[2:]
    assert (second["has_more"], second["last"]) == (False, "page-3")
    beyond = (await api.admin.get(PATH, params={"after": "zzz"})).json()
    assert beyond == {"data": [], "has_more": False, "last": None}
    await removed(api, cluster, *names)


@pytest.mark.parametrize(
    ("query", "field"), [({"limit": "0"}, "limit"), ({"limit": "1001"}, "limit"), ({"after": "a\0"}, "after")]
)
async def test_a_wrong_page_is_refused(lone_api: Api, query: dict[str, str], field: str) -> None:
    problem = problem_of(await lone_api.admin.get(PATH, params=query), 422, "invalid_request")
    assert [error.field for error in problem.errors] == [field]


async def test_a_watch_sees_what_there_is_and_every_change(api: Api, cluster: Cluster, tiny_model: ModelSource) -> None:
    await create(api, tiny_model, "seen", priority=1)
    async with asyncio.timeout(30), api.watch(PATH) as events:
        event = await anext(event async for event in events if event.data["name"] == "seen")
        assert (event.kind, event.data["priority"]) == ("added", 1)
        await api.admin.patch(f"{PATH}/seen", json={"priority": 2})
        event = await anext(event async for event in events if event.data["name"] == "seen")
        assert (event.kind, event.data["priority"]) == ("modified", 2)
        await removed(api, cluster, "seen")
        event = await anext(event async for event in events if event.kind == "deleted")
        assert event.data["name"] == "seen"


async def test_a_watch_of_one_sees_only_that_one(api: Api, cluster: Cluster, tiny_model: ModelSource) -> None:
    problem_of(await api.admin.get(f"{PATH}/later", params={"watch": "true"}), 404, "not_found")
    await create(api, tiny_model, "watched")
    async with asyncio.timeout(30), api.watch(f"{PATH}/watched") as events:
        assert (await anext(events)).kind == "added"
        await create(api, tiny_model, "other")
        await removed(api, cluster, "other", "watched")
        event = await anext(event async for event in events if event.kind == "deleted")
        assert event.data["name"] == "watched"


async def test_without_temporal_nothing_changes_and_everything_can_be_read(lone_api: Api) -> None:
    response = await lone_api.admin.post(PATH, json={"name": "new", "model": "hf:org/repo"})
    assert "Temporal does not answer" in problem_of(response, 503, "temporal_unavailable").detail
    assert response.headers["retry-after"] == "5"
    assert (await lone_api.admin.get(PATH)).json()["data"] == []


async def test_a_control_plane_that_does_not_answer_is_not_waited_for_for_ever(
    api: Api, tiny_model: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment_calls, "ANSWER_WITHIN", timedelta(seconds=0.5))
    monkeypatch.setattr(deployment_calls, "CONTROL_QUEUE", "nobody takes this work")
    problem = problem_of(await create(api, tiny_model, "unheard"), 503, "control_plane_unavailable")
    assert "the control plane has not answered yet" in problem.detail


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RPCError("Workflow was not started: StartDeduped", RPCStatusCode.UNKNOWN, b""), True),
        (RPCError("workflow execution already completed", RPCStatusCode.NOT_FOUND, b""), True),
        (RPCError("connection refused", RPCStatusCode.UNAVAILABLE, b""), False),
        (RuntimeError("StartDeduped"), False),
    ],
)
def test_which_calls_are_sent_anew(error: Exception, lost: bool) -> None:
    assert deployment_calls.is_start_lost(error) is lost
