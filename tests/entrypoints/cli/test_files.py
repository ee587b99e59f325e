"""`stoker files`, and what goes with `stoker files evict`."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from api.schemas.files import StoredFileRead, StoredModelRead
from stoker.domain.statuses import WorkerStatus
from stoker.domain.units import GIB
from tests.builders import make_worker
from tests.entrypoints.cli.conftest import Stoker
from tests.fakes.api import CREATED_AT, FakeApi

COMMIT = "0123456789" * 4


def stored(
    worker: str, name: str, gib: int, days: float | None, *, own: bool = True, done: int | None = None, users: str = ""
) -> StoredModelRead:
    """A model of `gib` in two files, last used so many days ago."""
    half = gib * GIB // 2
    done = gib * GIB if done is None else done
    files = [
        StoredFileRead(path=f"{name}-1.gguf", size_bytes=half, stored_bytes=min(half, done)),
        StoredFileRead(path=f"{name}-2.gguf", size_bytes=half, stored_bytes=max(0, done - half)),
    ]
    model = f"hf:acme/{name}@{COMMIT}/{name}-1.gguf"
    return StoredModelRead(
        id=f"{worker}/{model}",
        worker=worker,
        model=model,
        size_bytes=gib * GIB,
        stored_bytes=done,
        used_at=datetime.now(UTC) - timedelta(days=days) if days is not None else None,
        in_use=bool(users),
        own=own,
        instances=users.split(),
        files=files,
    )


@pytest.fixture
def files(api: FakeApi) -> None:
    """On box-1 four models, one of them in use and one that was found; on box-2 one that box-1 has too, in part."""
    workers = [make_worker(name=name) for name in ("box-1", "box-2")]
    api.workers = [WorkerStatus(worker=worker, joined_at=CREATED_AT, seen_at=CREATED_AT) for worker in workers]
    api.stored = [
        stored("box-1", "busy", 4, 0, users="llama-a llama-b"),
        stored("box-1", "found", 2, None, own=False),
        stored("box-1", "month", 8, 30),
        stored("box-1", "week", 6, 8),
        stored("box-2", "week", 6, 1, done=GIB),
    ]


def left(api: FakeApi) -> list[str]:
    return [f"{item.worker} {item.files[0].path.partition('-')[0]}" for item in api.stored]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("arguments", [("files",), ("files", "ls")])
def test_files(arguments: tuple[str, ...], stoker: Stoker) -> None:
    shown = [" ".join(line.split()) for line in stoker(*arguments).stdout.splitlines()]
    assert shown == [
        "WORKER MODEL FILES SIZE LAST USE USED BY",
        f"box-1 acme/busy@{COMMIT}/busy-1.gguf 2 4 GiB 0s ago llama-a, llama-b",
        f"box-1 acme/found@{COMMIT}/found-1.gguf 2 2 GiB not known nobody; not fetched by Stoker",
        f"box-1 acme/month@{COMMIT}/month-1.gguf 2 8 GiB 30d ago nobody",
        f"box-1 acme/week@{COMMIT}/week-1.gguf 2 6 GiB 8d ago nobody",
        f"box-2 acme/week@{COMMIT}/week-1.gguf 2 1 GiB of 6 GiB 1d ago nobody",
    ]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "ids"),
    [((), 5), (("--worker", "box-2"), 1), (("--model", "week"), 2), (("--worker", "box-1", "--model", "acme/w"), 1)],
)
def test_files_as_data_and_only_some(api: FakeApi, stoker: Stoker, arguments: tuple[str, ...], ids: int) -> None:
    api.page = 2
    assert len(json.loads(stoker("files", "ls", *arguments, "-o", "json").stdout)) == ids


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "gone"),
    [
        pytest.param(("month",), ["box-1 month"], id="a part of a name"),
        pytest.param(("week",), ["box-1 week", "box-2 week"], id="on every worker"),
        pytest.param(("week", "--worker", "box-2"), ["box-2 week"], id="on one"),
        pytest.param((f"hf:acme/month@{COMMIT}/month-1.gguf",), ["box-1 month"], id="the whole name"),
        pytest.param(("found", "--force"), ["box-1 found"], id="one that was found"),
        pytest.param(("--older-than", "7d"), ["box-1 month", "box-1 week"], id="by age"),
        pytest.param(("--older-than", "12h"), ["box-1 month", "box-1 week", "box-2 week"], id="by age, everywhere"),
        pytest.param(("--older-than", "52w"), [], id="nothing is so old"),
        pytest.param(("--free", "7GiB", "--worker", "box-1"), ["box-1 month"], id="by room"),
        pytest.param(("--free", "14GiB", "--worker", "box-1"), ["box-1 month", "box-1 week"], id="by more room"),
    ],
)
def test_what_goes(api: FakeApi, stoker: Stoker, arguments: tuple[str, ...], gone: list[str]) -> None:
    before = left(api)
    dry = stoker("files", "evict", *arguments, "--dry-run")
    assert (dry.exit_code, left(api)) == (0, before)
    assert len([line for line in dry.stdout.splitlines() if line.startswith("box")]) == len(gone)
    done = stoker("files", "evict", *arguments)
    assert done.exit_code == 0, done.stderr
    assert left(api) == [item for item in before if item not in gone]
    assert len([line for line in done.stdout.splitlines() if " is gone, " in line]) == len(gone)
    assert ("nothing to evict" in done.stderr) is (gone == [])


@pytest.mark.usefixtures("files")
def test_what_went_as_data(api: FakeApi, stoker: Stoker) -> None:
    would = json.loads(stoker("files", "evict", "month", "--dry-run", "-o", "json").stdout)
    assert [item["id"] for item in would] == [f"box-1/hf:acme/month@{COMMIT}/month-1.gguf"]
    went = json.loads(stoker("files", "evict", "month", "-o", "json").stdout)
    assert went == [{"worker": "box-1", "model": would[0]["model"], "freed_bytes": 8 * GIB}]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "name one of MODEL, --older-than TIME and --free SIZE"),
        (("week", "--older-than", "7d"), 2, "name one of MODEL"),
        (("--older-than", "7 days"), 2, "--older-than: '7 days' is not a time: write it like 7d"),
        (("--free", "lots", "--worker", "box-1"), 2, "--free: 'lots' is not a size"),
        (("--free", "1GiB"), 2, "name it with --worker"),
        (("--older-than", "7d", "--force"), 2, "--force is for one MODEL"),
        (("--free", "1GiB", "--worker", "nix"), 3, "there is no worker 'nix'"),
        (("--free", "15GiB", "--worker", "box-1"), 1, "box-1 has 14 GiB of models that Stoker fetched and nobody uses"),
        (("acme",), 2, "'acme' is a part of several: hf:acme/busy@"),
        (("nix",), 3, "no worker has a model 'nix' on its disk"),
        (("busy",), 1, "is in use on box-1, by llama-a, llama-b"),
        (("busy", "--force"), 1, "is in use on box-1, by llama-a, llama-b"),
        (("found",), 1, "with --force it goes all the same"),
    ],
)
def test_what_is_refused(api: FakeApi, stoker: Stoker, arguments: tuple[str, ...], code: int, words: str) -> None:
    before = left(api)
    done = stoker("files", "evict", *arguments)
    assert (done.exit_code, left(api)) == (code, before)
    assert words in done.stderr


@pytest.mark.usefixtures("files")
def test_one_that_stays_does_not_keep_the_others(api: FakeApi, stoker: Stoker) -> None:
    api.stored[3] = api.stored[3].model_copy(update={"in_use": True, "instances": ["llama-c"]})
    done = stoker("files", "evict", "week")
    assert (done.exit_code, "box-2: " in done.stdout, "by llama-c" in done.stderr) == (1, True, True)
    assert "box-1 week" in left(api)
    assert "box-2 week" not in left(api)
