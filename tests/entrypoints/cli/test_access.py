"""Which server, and whose key."""

from pathlib import Path

import pytest

from entrypoints.cli.access import Access, find_access
from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.data_folder import admin_key_file
from stoker.settings import Settings


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STOKER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def key_file(data_dir: Path) -> Path:
    """Where the first start leaves the admin's key."""
    path = admin_key_file(Settings())
    path.write_text("sk-stoker-file\n")
    return path


def test_by_itself_the_server_of_the_settings_and_its_key(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_API__PORT", "9999")
    assert find_access(None) == Access("http://127.0.0.1:9999", "sk-stoker-file", str(key_file))


def test_the_environment_comes_before_the_file(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_API_KEY", " sk-stoker-given\n")
    assert find_access("https://box:8410/") == Access("https://box:8410", "sk-stoker-given", "STOKER_API_KEY")
    assert find_access(None) == Access("http://127.0.0.1:8410", "sk-stoker-given", "STOKER_API_KEY")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://127.8.9.1", "http://localhost:1", "http://[::1]:1"])
def test_the_file_is_for_this_machine(url: str, key_file: Path) -> None:
    assert find_access(url).key == "sk-stoker-file"
    assert find_access(url).is_local


def test_the_file_is_for_the_server_of_the_settings(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_API__HOST", "10.1.2.3")
    assert find_access(None).key == "sk-stoker-file"


@pytest.mark.parametrize("url", ["http://example.com:8410", "http://10.1.2.3:8410", "http://localhost.evil.example"])
def test_the_file_is_never_sent_to_strangers(url: str, key_file: Path) -> None:
    access = find_access(url)
    assert (access.key, access.is_local) == ("", False)
    assert access.key_from == "STOKER_API_KEY, which is not set"


def test_without_any_key_it_is_told_where_one_was_looked_for(data_dir: Path) -> None:
    access = find_access(None)
    assert access.key == ""
    assert access.key_from == f"STOKER_API_KEY and {data_dir / 'admin-key'}"


def test_a_key_is_never_shown(key_file: Path) -> None:
    assert "sk-stoker" not in repr(find_access(None))


def test_a_key_file_that_cannot_be_read(data_dir: Path) -> None:
    (data_dir / "admin-key").mkdir()
    with pytest.raises(CliError, match="admin-key cannot be read: Is a directory") as refused:
        find_access(None)
    assert refused.value.code is ExitCode.NOT_ALLOWED


@pytest.mark.parametrize("key", ["sk stoker", "sk-ö", "sk-\x07"])
def test_a_key_that_is_none_is_not_repeated(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_API_KEY", key)
    with pytest.raises(CliError, match="characters that no key has") as refused:
        find_access(None)
    assert refused.value.code is ExitCode.USAGE
    assert key not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["box:8410", "127.0.0.1:8410", "ftp://box", "http://", "http://box:99999", "http://[::1"]
)
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(CliError, match="write it like http://") as refused:
        find_access(url)
    assert refused.value.code is ExitCode.USAGE
    assert url in str(refused.value)
