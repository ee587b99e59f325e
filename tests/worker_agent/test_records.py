"""Record files: what is written is what is read, and nothing else leads out of the folder."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activities.ports import ProcessKey
from worker_agent.records import ProcessExit, ProcessRecord, RecordStore, file_stem, parse_stem

KEY = ProcessKey(instance_id="llama-0", incarnation=3)
_KEYS = st.builds(
    ProcessKey,
    instance_id=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True),
    incarnation=st.integers(0, 999_999_999),
    role=st.sampled_from(["main", "rpc"]),
)


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> RecordStore:
    return RecordStore(tmp_path_factory.mktemp("state") / "processes")


@given(key=_KEYS, pid=st.integers(0, 2**22), code=st.none() | st.integers(-64, 255), cause=st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_record_comes_back_as_it_was(
    store: RecordStore, key: ProcessKey, pid: int, code: int | None, cause: str
) -> None:
    record = ProcessRecord(key=key, pid=pid, birth="boot:1", port=80, exit=ProcessExit(code=code, cause=cause))
    store.save(record)
    assert store.load(key) == record
    assert store.keys() == [key]
    store.forget(key)
    store.forget(key)
    assert store.load(key) is None
    assert store.keys() == []


def test_files_are_for_this_user_only(store: RecordStore) -> None:
    store.save(ProcessRecord(key=KEY))
    assert store.folder.stat().st_mode & 0o777 == 0o700
    (file,) = store.folder.iterdir()
    assert file.name == "llama-0.3.main.json"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"key":{"instance_id":"other","incarnation":3}}'])
def test_an_unreadable_record_is_damaged(store: RecordStore, content: bytes) -> None:
    store.path(KEY).write_bytes(content)
    assert store.keys() == [KEY]
    assert store.load(KEY) == ProcessRecord(key=KEY, damaged=True)


def test_other_files_are_no_records(store: RecordStore) -> None:
    for name in ("x.json", ".llama-0.3.main.json.draft", "llama-0.3.main.txt", "UPPER.1.main.json"):
        (store.folder / name).touch()
    assert store.keys() == []


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "a.b", "-a", "A", "a" * 64, "a\n"])
def test_an_unsafe_name_is_refused(store: RecordStore, name: str) -> None:
    with pytest.raises(ValueError, match="names no process"):
        store.path(ProcessKey(instance_id=name, incarnation=1))


def test_an_unsafe_role_or_incarnation_is_refused() -> None:
    for key in (
        ProcessKey(instance_id="a", incarnation=-1),
        ProcessKey(instance_id="a", incarnation=1, role="../main"),
    ):
        with pytest.raises(ValueError, match="names no process"):
            file_stem(key)


def test_a_disk_that_refuses_is_survived(store: RecordStore) -> None:
    store.folder.rmdir()
    store.folder.touch()
    store.keep(ProcessRecord(key=KEY))
    with pytest.raises(FileExistsError):
        store.save(ProcessRecord(key=KEY))


def test_stems() -> None:
    assert parse_stem("llama-0.3.main") == KEY
    assert parse_stem("llama-0.3.main.log") is None
