"""The file listener: ranges of what is held, and nothing else."""

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from stoker.domain.models import ModelFile
from worker_agent.downloads import HubDownloads
from worker_agent.file_server import file_app, file_listener
from worker_agent.hub_cache import CachedRepo

pytestmark = pytest.mark.anyio

COMMIT = "0123456789" * 4
SHARDS = tuple(f"Q4/m-0000{number}-of-00002.gguf" for number in (1, 2))
KEY = f"hf:acme/tiny@{COMMIT}/{SHARDS[0]}"


@pytest.fixture
def cached(tmp_path: Path) -> CachedRepo:
    """A model of two shards, and a file beside it that is of no model."""
    made = CachedRepo(tmp_path / "cache", "acme/tiny", COMMIT)
    made.blobs.mkdir(parents=True)
    for number, name in enumerate((*SHARDS, "Q4/notes.txt")):
        made.blob(str(number) * 64).write_bytes(name.encode())
        made.link(ModelFile(path=name, size=len(name)), str(number) * 64)
    (tmp_path / "secret").write_text("of nobody's business")
    return made


@pytest.fixture
async def client(cached: CachedRepo) -> AsyncIterator[httpx.AsyncClient]:
    app = file_app(HubDownloads(cached.cache_dir).held_file)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://files") as made:
        yield made


async def ask(client: httpx.AsyncClient, model: str, path: str, start: int | None = None) -> httpx.Response:
    headers = {"range": f"bytes={start}-"} if start is not None else {}
    return await client.get("/files", params={"model": model, "path": path}, headers=headers)


@pytest.mark.parametrize(
    ("start", "status", "content"), [(None, 200, SHARDS[1]), (0, 206, SHARDS[1]), (5, 206, SHARDS[1][5:])]
)
async def test_from_any_byte(client: httpx.AsyncClient, start: int | None, status: int, content: str) -> None:
    answer = await ask(client, KEY, SHARDS[1], start)
    assert (answer.status_code, answer.text, answer.headers["content-length"]) == (status, content, str(len(content)))


async def test_behind_its_end(client: httpx.AsyncClient) -> None:
    assert (await ask(client, KEY, SHARDS[1], len(SHARDS[1]))).status_code == 416


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (KEY, "Q4/notes.txt"),
        (KEY, "../../../../../secret"),
        (KEY, "/etc/passwd"),
        (KEY, ""),
        ("", SHARDS[0]),
        (KEY.replace("acme/tiny", "acme/other"), SHARDS[0]),
        (KEY.replace("acme/tiny", "../.."), SHARDS[0]),
        (KEY.replace(COMMIT, "main"), SHARDS[0]),
        (KEY.replace(SHARDS[0], SHARDS[1]), SHARDS[1]),
        (KEY.replace(SHARDS[0], "../../../../../secret.gguf"), "../../../../../secret.gguf"),
        ("file:/etc/passwd", "/etc/passwd"),
        (f"{KEY}\0", SHARDS[0]),
    ],
)
async def test_nothing_else(client: httpx.AsyncClient, model: str, path: str) -> None:
    answer = await ask(client, model, path)
    assert (answer.status_code, answer.text) == (404, "no such file of a model that is held here\n")


async def test_not_of_a_model_that_is_not_whole(client: httpx.AsyncClient, cached: CachedRepo) -> None:
    cached.pointer(SHARDS[1]).unlink()
    assert (await ask(client, KEY, SHARDS[0])).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/files", 405), ("GET", "/", 404), ("GET", "/logs/x", 404)]
)
async def test_no_other_way(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    assert (await client.request(method, path)).status_code == status


@pytest.mark.parametrize("depth", [0, 100])
def test_other_users_of_the_host_do_not_reach_it(tmp_path: Path, depth: int) -> None:
    folder = tmp_path / ("d" * depth) / "mesh"
    folder.mkdir(parents=True)
    (folder / "files.sock").write_text("of an agent that was killed")
    with file_listener(folder) as listener:
        path = Path(listener.getsockname())
        assert len(os.fsencode(path)) < 104
        assert (path.parent == folder) is (depth == 0)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert depth == 0 or stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not path.exists()
