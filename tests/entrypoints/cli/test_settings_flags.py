"""Flags on top of environment, file and defaults; and what is said when one is wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from entrypoints.cli.errors import CliError, ExitCode
from entrypoints.cli.settings_flags import FLAGS, settings_from
from stoker.settings import Settings


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file, empty."""
    path = tmp_path / "stoker.toml"
    path.write_text("")
    monkeypatch.setenv("STOKER_CONFIG", str(path))
    return path


def test_flag_then_environment_then_file_then_default(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("[api]\nhost = '127.0.0.3'\nport = 3\n[temporal]\nport = 3\nui_port = 3\n")
    monkeypatch.setenv("STOKER_API__PORT", "2")
    monkeypatch.setenv("STOKER_TEMPORAL__PORT", "2")
    settings = settings_from({"temporal.port": 1, "api.host": None, "worker.offer": [], "worker.labels": {}})
    assert (settings.temporal.port, settings.api.port, settings.api.host) == (1, 2, "127.0.0.3")
    assert (settings.temporal.ui_port, settings.log_level, settings.worker.offer) == (3, "info", ())


def test_lists_and_labels() -> None:
    settings = settings_from(
        {"worker.offer": ["cpu=2GiB", "gpu0=0"], "worker.labels": {"zone": "lab"}, "worker.model_dirs": [Path("/srv")]}
    )
    assert settings.worker.offer == ("cpu=2GiB", "gpu0=0")
    assert settings.worker.labels == {"zone": "lab"}
    assert settings.worker.model_dirs == (Path("/srv"),)


def test_the_clients_own_variables_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOKER_SERVER", "http://box")
    monkeypatch.setenv("STOKER_API_KEY", "sk-stoker-x")
    assert settings_from({}).api == Settings().api


def test_every_flag_is_of_a_setting_that_exists() -> None:
    for name in FLAGS:
        value: Any = Settings()
        for part in name.split("."):
            value = getattr(value, part)


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        ({"api.port": 99999}, {}, "--port=99999: Input should be less than or equal to 65535"),
        ({}, {"STOKER_API__PORT": "http"}, "STOKER_API__PORT=http: Input should be a valid integer"),
        ({"worker.name": "Box 1"}, {}, "--name=Box 1: 'Box 1' is no worker name: lower-case letters"),
        ({}, {"STOKER_LOG_LEVEL": "loud"}, "STOKER_LOG_LEVEL=loud: String should match pattern"),
        ({}, {"STOKER_API__PROT": "1"}, "STOKER_API__PROT: there is no setting 'api.prot'"),
        ({}, {"STOKER_WORKER__OFFER": "cpu=2GiB"}, 'STOKER_WORKER__OFFER=cpu=2GiB: write it as JSON, like ["…", "…"]'),
        ({}, {"STOKER_WORKER__LABELS": "a=b"}, 'STOKER_WORKER__LABELS=a=b: write it as JSON, like {"key": "value"}'),
        ({}, {"STOKER_CONFIG": "/no/such/file"}, "STOKER_CONFIG=/no/such/file: there is no such file"),
        ({}, {"STOKER_WORKER__JOIN_TOKEN_FILE": "/no/token"}, "cannot be read: /no/token: No such file or directory"),
    ],
)
def test_what_is_wrong_is_named_with_its_value(
    flags: Mapping[str, Any], environment: Mapping[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CliError) as refused:
        settings_from(flags)
    assert message in str(refused.value)
    assert refused.value.code is ExitCode.USAGE


def test_a_flag_goes_by_the_name_that_the_command_gives_it() -> None:
    with pytest.raises(CliError, match=r"^--worker-name=X:"):
        settings_from({"worker.name": "X"}, {"worker.name": "--worker-name"})


def test_every_mistake_is_told() -> None:
    with pytest.raises(CliError) as refused:
        settings_from({"api.port": 0, "temporal.port": 0})
    assert [message.split("=")[0] for message in refused.value.messages] == ["--port", "--temporal-port"]


def test_mistakes_in_the_file(config: Path) -> None:
    config.write_text("[api\nport = 1")
    with pytest.raises(CliError, match=f"the settings file {config} is no TOML") as refused:
        settings_from({})
    assert refused.value.code is ExitCode.USAGE
    config.write_text("[worker]\njoin_token = ['st-join-secret']\n")
    with pytest.raises(CliError, match="STOKER_WORKER__JOIN_TOKEN: Input should be") as refused:
        settings_from({})
    assert "st-join-secret" not in str(refused.value)
