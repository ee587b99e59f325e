"""The store of engines: what counts as installed, and what does not."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.worker_agent.fake_build import fake_programs
from worker_agent.engine_options import Backend
from worker_agent.engine_store import MANIFEST, EngineStore, InstalledEngine, Manifest, Program


def put_engine(store: EngineStore, name: str = "0.3.36-cpu-12345678", **fields: object) -> InstalledEngine:
    """An engine in the store, as an installation leaves it. `devices` and `protocol` are its programs' answers."""
    folder = store.folder / name
    answers = {key: str(fields.pop(key)) for key in ("devices",) if key in fields}
    programs = fake_programs(folder / "bin", **answers)
    values: dict[str, object] = {
        "name": name,
        "version": "0.5.0-dev (build 0, commit 0c1e57098)",
        "release": "0.3.36",
        "source_sha256": "0" * 64,
        "backend": Backend.CPU,
        "platform": "linux-x86_64",
        "options": ("-DGGML_RPC=ON",),
        "rpc_protocol": "7.0.1",
        "built_at": datetime(2026, 11, 21, tzinfo=UTC),
        "build_seconds": 300,
        "programs": {path.name: Program(size=path.stat().st_size, sha256="0" * 64) for path in programs.iterdir()},
    }
    manifest = Manifest.model_validate(values | fields)
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return InstalledEngine(manifest=manifest, folder=folder)


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    """An empty store."""
    return EngineStore(tmp_path / "engines")


def test_a_store_that_is_not_there_is_empty(store: EngineStore) -> None:
    assert store.installed() == []
    assert store.damaged() == {}
    assert store.find("x") is None
    assert not store.remove("x")
    assert not store.folder.exists()


def test_it_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert EngineStore().folder.parts[-2:] == ("stoker", "engines")


def test_engines_are_found_by_name_and_removed_as_a_whole(store: EngineStore) -> None:
    engines = [put_engine(store, name) for name in ("0.3.35-cpu-1", "0.3.36-cpu-2")]
    assert store.installed() == engines
    assert store.find("0.3.36-cpu-2") == engines[1]
    assert store.remove("0.3.35-cpu-1")
    assert store.installed() == engines[1:]
    assert [path.name for path in store.folder.iterdir()] == ["0.3.36-cpu-2"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges folders in one step")
def test_an_engine_is_replaced_without_a_moment_in_which_there_is_none(
    store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = put_engine(store), put_engine(EngineStore(store.folder / ".building-1"), release="0.3.36.post1")
    rename, there = Path.rename, []

    def watched(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        there.append(old.folder.exists())
        return moved

    monkeypatch.setattr(Path, "rename", watched)
    assert store.put(new.folder, old.folder.name).manifest == new.manifest
    assert all(there)


def test_where_folders_cannot_be_exchanged_the_old_one_makes_room(
    store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = put_engine(store), put_engine(EngineStore(store.folder / ".building-1"), release="0.3.36.post1")
    monkeypatch.setattr("worker_agent.engine_store._exchanged", lambda *_: False)
    assert store.put(new.folder, old.folder.name).manifest == new.manifest


@pytest.mark.parametrize("name", ["../0.3.36-cpu-2", ".", "..", "", "logs", ".lock", "/etc"])
def test_only_an_engine_can_be_removed(store: EngineStore, name: str) -> None:
    engine = put_engine(store)
    (store.folder / "logs").mkdir()
    (store.folder / ".lock").touch()
    assert not store.remove(name)
    assert store.installed() == [engine]


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (lambda engine: (engine.folder / MANIFEST).unlink(), "engine.json: No such file"),
        (lambda engine: (engine.folder / MANIFEST).write_text("{"), "engine.json: : Invalid JSON"),
        (lambda engine: (engine.folder / MANIFEST).write_text('{"name": 1}'), "engine.json: name: Input should be"),
        (lambda engine: engine.program("llama-server").unlink(), "llama-server: is missing"),
        (lambda engine: engine.program("ggml-rpc-server").write_text("x"), "ggml-rpc-server: has 1 bytes instead"),
        (lambda engine: engine.folder.rename(engine.folder.with_name("other")), "engine.json: is of 0.3.36-cpu-"),
    ],
)
def test_what_is_not_whole_is_no_engine_and_says_why(store: EngineStore, spoil: object, wrong: str) -> None:
    spoil(put_engine(store))  # type: ignore[operator]
    assert store.installed() == []
    ((name, text),) = store.damaged().items()
    assert wrong in text
    assert store.remove(name)
    assert store.damaged() == {}
