"""`/api/v1/files`: what lies on the workers' disks, and who may have it taken away."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from stoker.domain.placement.types import Placement
from stoker.domain.reports import StoredFile, WorkerReport
from stoker.domain.workers import Worker
from tests.api.serving import Api
from tests.api.test_deployments import problem_of
from tests.builders import make_files, make_request, make_spec, make_worker

pytestmark = pytest.mark.anyio

PATH = "/api/v1/files"
KEY = make_files().key
OTHER = "hf:acme/other@" + "0" * 40 + "/Q4/o-00001-of-00002.gguf"


def files_of(key: str, *, own: bool = True, used_at: float | None = 1_700_000_000.0) -> tuple[StoredFile, ...]:
    return (
        StoredFile(model=key, path="1.gguf", size=10, done=10, own=own, used_at=used_at),
        StoredFile(model=key, path="2.gguf", size=20, done=5, own=own, used_at=used_at),
    )


async def told(api: Api, worker: Worker, *files: StoredFile) -> None:
    """As the worker's agent reports."""
    if worker.name not in api.credentials:
        assert (await api.join(worker)).status_code == 200
    await told_again(api, worker, files)


async def told_again(api: Api, worker: Worker, files: tuple[StoredFile, ...] | None) -> None:
    answer = await api.anyone.post(
        f"/api/v1/workers/{worker.name}/report",
        content=WorkerReport(worker=worker, files=files).model_dump_json(),
        headers={"content-type": "application/json", "authorization": f"Bearer {api.credentials[worker.name]}"},
    )
    assert answer.status_code == 200, answer.text


async def listed(api: Api, **query: Any) -> list[dict[str, Any]]:
    answer = await api.admin.get(PATH, params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def test_a_model_with_its_files_and_who_uses_it(lone_api: Api) -> None:
    worker = make_worker(name="files-a")
    await told(lone_api, worker, *files_of(KEY))
    request = make_request(instance_id="llama-file", spec=make_spec(devices=(("files-a", "gpu0"),)))
    assert isinstance(lone_api.context.ledger.place(request), Placement)
    (item,) = await listed(lone_api, worker="files-a")
    assert item == {
        "id": f"files-a/{KEY}",
        "worker": "files-a",
        "model": KEY,
        "size_bytes": 30,
        "stored_bytes": 15,
        "used_at": datetime.fromtimestamp(1_700_000_000, UTC).isoformat().replace("+00:00", "Z"),
        "in_use": True,
        "own": True,
        "instances": ["llama-file"],
        "files": [
            {"path": "1.gguf", "size_bytes": 10, "stored_bytes": 10},
            {"path": "2.gguf", "size_bytes": 20, "stored_bytes": 5},
        ],
    }
    await told_again(lone_api, worker, None)
    assert len(await listed(lone_api, worker="files-a")) == 1, "a report that tells nothing of files changes nothing"
    problem = problem_of(await lone_api.admin.delete(f"{PATH}/files-a/{quote(KEY, safe='')}"), 409, "file_in_use")
    assert problem.detail == f"{KEY} is in use on files-a, by llama-file"
    problem_of(await lone_api.admin.delete(f"{PATH}/files-a/{quote(KEY)}", params={"force": True}), 409, "file_in_use")
    lone_api.context.ledger.release("llama-file")
    (item,) = await listed(lone_api, worker="files-a")
    assert (item["in_use"], item["instances"]) == (False, [])


async def test_pages_and_filters(lone_api: Api) -> None:
    await told(lone_api, make_worker(name="files-c"), *files_of(OTHER, own=False, used_at=None))
    await told(lone_api, make_worker(name="files-b"), *files_of(OTHER), *files_of(KEY))
    every = [item["id"] for item in await listed(lone_api) if item["worker"] in ("files-b", "files-c")]
    assert every == sorted([f"files-b/{OTHER}", f"files-b/{KEY}", f"files-c/{OTHER}"])
    found, after = [], ""
    while True:
        page = (await lone_api.admin.get(PATH, params={"limit": 1, "after": after})).json()
        found += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            break
        after = page["last"]
    assert [one for one in found if one in every] == every
    assert [item["id"] for item in await listed(lone_api, model="acme/other", worker="files-c")] == [f"files-c/{OTHER}"]
    (item,) = await listed(lone_api, worker="files-c")
    assert (item["own"], item["used_at"]) == (False, None)
    assert await listed(lone_api, worker="files-x") == []


async def test_a_watch_tells_what_is_there_and_what_comes(lone_api: Api) -> None:
    worker = make_worker(name="files-w")
    await told(lone_api, worker, *files_of(KEY))
    async with lone_api.watch(f"{PATH}") as events:
        async for event in events:
            if event.data["id"] == f"files-w/{KEY}":
                break
        await told_again(lone_api, worker, ())
        async for event in events:
            if event.kind == "deleted":
                assert event.data["id"] == f"files-w/{KEY}"
                break


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"nobody/{quote(KEY)}", 404, "not_found"),
        ("No_Name/hf:a/b@c/d.gguf", 422, "invalid_request"),
        ("w1/file:/etc/passwd", 422, "invalid_request"),
    ],
)
async def test_what_cannot_be_evicted(lone_api: Api, path: str, status: int, code: str) -> None:
    problem_of(await lone_api.admin.delete(f"{PATH}/{path}"), status, code)


async def test_without_temporal_it_is_said_so_and_the_row_stays(lone_api: Api) -> None:
    await told(lone_api, make_worker(name="files-t"), *files_of(KEY))
    problem_of(await lone_api.admin.delete(f"{PATH}/files-t/{quote(KEY)}"), 503, "temporal_unavailable")
    assert len(await listed(lone_api, worker="files-t")) == 1


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_only_administrators(lone_api: Api, method: str) -> None:
    path = PATH if method == "GET" else f"{PATH}/w1/{quote(KEY)}"
    problem_of(await lone_api.anyone.request(method, path), 401, "unauthorized")
