"""Settings: which source wins, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsError

from stoker.settings import Settings, default_data_dir


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file, which is not there yet."""
    path = tmp_path / "stoker.toml"
    monkeypatch.setenv("STOKER_CONFIG", str(path))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    return path


def test_the_defaults_are_for_one_machine() -> None:
    settings = Settings()
    assert (settings.api.host, settings.api.port) == ("127.0.0.1", 8410)
    assert settings.api_url == "http://127.0.0.1:8410"
    assert settings.database_url == f"sqlite:///{settings.data_dir}/stoker.db"
    assert settings.worker.join_token.get_secret_value() == ""


def test_flag_before_environment_before_secret_file_before_settings_file_before_default(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def token() -> str:
        return Settings().worker.join_token.get_secret_value()

    config.write_text('[worker]\njoin_token = "of the settings file"\n')
    assert token() == "of the settings file"
    (tmp_path / "token").write_text("of the secret file\n")
    monkeypatch.setenv("STOKER_WORKER__JOIN_TOKEN_FILE", str(tmp_path / "token"))
    assert token() == "of the secret file"
    monkeypatch.setenv("STOKER_WORKER__JOIN_TOKEN", "of the environment")
    assert token() == "of the environment"
    given = Settings(worker={"join_token": "of a flag"})
    assert given.worker.join_token.get_secret_value() == "of a flag"


def test_sources_are_merged_setting_by_setting(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('log_level = "debug"\n[worker]\naddress = "10.0.0.1"\nlabels = { zone = "a" }\n')
    (tmp_path / "secret").write_text("s" * 40)
    monkeypatch.setenv("STOKER_SECRET_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("STOKER_WORKER__RESERVE", "ram=1GiB")
    settings = Settings(worker={"name": "box-1"})
    worker = settings.worker
    assert (worker.name, worker.reserve, worker.address) == ("box-1", "ram=1GiB", "10.0.0.1")
    assert worker.labels == {"zone": "a"}
    assert (settings.log_level, settings.secret.get_secret_value()) == ("debug", "s" * 40)


def test_lists_and_tables_are_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_WORKER__OFFER", '["cpu=2GiB", "gpu0=20GiB"]')
    monkeypatch.setenv("STOKER_WORKER__LABELS", '{"zone": "b"}')
    assert Settings().worker.offer == ("cpu=2GiB", "gpu0=20GiB")
    assert Settings().worker.labels == {"zone": "b"}
    monkeypatch.setenv("STOKER_WORKER__OFFER", "cpu=2GiB")
    with pytest.raises(SettingsError):
        Settings()


@pytest.mark.parametrize(
    ("variable", "setting"),
    [
        ("STOKER_API__PROT", ("api", "prot")),
        ("STOKER_WORKER__JOIN_TOKE_FILE", ("worker", "join_toke")),
        ("STOKER_WROKER__NAME", ("wroker",)),
        ("STOKER_TOKEN_FILE", ("token",)),
    ],
)
def test_a_misspelt_variable_is_an_error(
    variable: str, setting: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv(variable, str(tmp_path / "file") if variable.endswith("_FILE") else "x")
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert [(error["loc"], error["type"]) for error in refused.value.errors()] == [(setting, "extra_forbidden")]


@pytest.mark.parametrize("content", ['[worker]\nnmae = "x"\n', 'data_folder = "/x"\n', "[wroker]\n"])
def test_a_misspelt_name_in_the_file_is_an_error(config: Path, content: str) -> None:
    config.write_text(content)
    with pytest.raises(ValidationError, match="extra_forbidden"):
        Settings()


@pytest.mark.parametrize("variable", ["STOKER_PORT", "STOKER_SERVICE_HOST", "STOKER_PORT_8410_TCP", "STOKER_API_KEY"])
def test_names_that_kubernetes_or_the_command_line_use_are_let_be(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "tcp://10.0.0.1:8410")
    assert Settings().api.port == 8410


def test_a_secret_file_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_WORKER__JOIN_TOKEN_FILE", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="nothing"):
        Settings()


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("90.5", 90.5), ("31536000", 31_536_000.0)])
def test_the_hold_of_those_who_wait(text: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().pending_hold == 600.0
    monkeypatch.setenv("STOKER_PENDING_HOLD", text)
    assert Settings().pending_hold == seconds


@pytest.mark.parametrize("text", ["-1", "inf", "nan", "ten minutes", "31536001"])
def test_a_hold_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_PENDING_HOLD", text)
    with pytest.raises(ValidationError, match="pending_hold"):
        Settings()


@pytest.mark.parametrize(("text", "seconds"), [("15", 15.0), ("90.5", 90.5), ("86400", 86_400.0)])
def test_the_grace_of_workers(text: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().worker_grace == 30.0
    monkeypatch.setenv("STOKER_WORKER_GRACE", text)
    assert Settings().worker_grace == seconds


@pytest.mark.parametrize("text", ["14.9", "0", "-1", "inf", "nan", "long", "86401"])
def test_a_grace_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_WORKER_GRACE", text)
    with pytest.raises(ValidationError, match="worker_grace"):
        Settings()


@pytest.mark.parametrize("name", ["", "a", "gpu-host-1", "0", "x" * 63])
def test_names_of_workers(name: str) -> None:
    assert Settings(worker={"name": name}).worker.name == name


@pytest.mark.parametrize("name", ["GPU", "-a", "a-", "a_b", "a.b", "x" * 64, "a\n", "é", " a"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValidationError, match="is no worker name: lower-case letters"):
        Settings(worker={"name": name})


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:8410", "https://stoker.example/base", "http://[::1]:8410"])
def test_addresses_of_servers(url: str) -> None:
    assert Settings(worker={"server": url}).worker.server == url


@pytest.mark.parametrize("url", ["stoker.example:8410", "ftp://x", "http://", "http://x:port", "http://x:99999", "//x"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ValidationError, match="is no address of a server: write it like http://"):
        Settings(worker={"server": url})


@pytest.mark.parametrize("url", ["javascript:alert(1)", "temporal.example", "http://", "https://x/?q", "http://x y"])
def test_addresses_of_temporals_ui_that_are_none(url: str) -> None:
    with pytest.raises(ValidationError, match="is no address of a page: write it like http://"):
        Settings(temporal={"ui_url": url})


def test_temporals_ui_is_where_it_is_said_to_be() -> None:
    assert (
        Settings(temporal={"ui_url": "https://temporal.example/ui/"}).temporal.ui_url == "https://temporal.example/ui"
    )


@pytest.mark.parametrize(
    ("flags", "setting"),
    [
        ({"api": {"port": 0}}, ("api", "port")),
        ({"api": {"port": 65536}}, ("api", "port")),
        ({"temporal": {"ui_port": "many"}}, ("temporal", "ui_port")),
        ({"log_level": "loud"}, ("log_level",)),
    ],
)
def test_values_that_are_wrong(flags: dict[str, Any], setting: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**flags)
    assert [error["loc"] for error in refused.value.errors()] == [setting]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8410"),
        ("0.0.0.0", "http://127.0.0.1:8410"),  # noqa: S104
        ("::", "http://127.0.0.1:8410"),
        ("::1", "http://[::1]:8410"),
        ("gpu-host", "http://gpu-host:8410"),
    ],
)
def test_the_api_as_processes_here_reach_it(host: str, url: str) -> None:
    assert Settings(api={"host": host}).api_url == url


def test_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings(data_dir=Path("here")).data_dir == tmp_path / "here"
    assert Settings(data_dir=Path("~/there")).data_dir == tmp_path / "there"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/stoker:/var/lib/other")
    assert default_data_dir() == Path("/var/lib/stoker")
    assert Settings().data_dir == Path("/var/lib/stoker")


def test_another_database_is_used_as_it_is_named() -> None:
    assert Settings(database={"url": "postgresql://u@h/d"}).database_url == "postgresql://u@h/d"


def test_secrets_are_not_shown() -> None:
    settings = Settings(secret="s" * 40, worker={"join_token": "the-token"})
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert "s" * 40 not in shown
    assert "the-token" not in shown
