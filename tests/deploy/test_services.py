"""The systemd units and the launchd job: they start what there is, and spare the engines.

They are checked by systemd's own tools where these are installed, and by what the two manuals say; nothing is started.
"""

import plistlib
import re
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest
from typer.main import get_command

from entrypoints.cli.errors import ExitCode
from entrypoints.cli.main import app
from entrypoints.up import UNUSABLE_SETTINGS
from stoker.settings import ApiSettings
from tests.docs.commands import documented

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
SERVICES = [path for path in UNITS if path.suffix == ".service"]
PROGRAM = "/opt/stoker/bin/stoker"


class _Lines(dict[str, object]):
    """Keys of a unit may be there more than once: their values are put together, one a line."""

    def __setitem__(self, key: str, value: object) -> None:
        before = self.get(key)
        super().__setitem__(key, [*before, *value] if isinstance(before, list) and isinstance(value, list) else value)


def unit(path: Path) -> dict[str, dict[str, str]]:
    """Its sections."""
    parser = RawConfigParser(dict_type=_Lines, strict=False, comment_prefixes=("#",), delimiters=("=",))  # type: ignore[arg-type]
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return {name: dict(parser.items(name)) for name in parser.sections()}


def commands() -> set[str]:
    """What `stoker` can be told."""
    return set(get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_a_service_runs_a_command_and_stays_down_where_starting_again_cannot_help(path: Path) -> None:
    service = unit(path)["Service"]
    program, command = service["ExecStart"].split(" ")
    assert (program, f"stoker-{command}") == (PROGRAM, path.stem)
    assert command in commands()
    assert service["Restart"] == "always"
    assert int(service["RestartPreventExitStatus"]) == ExitCode.USAGE == UNUSABLE_SETTINGS
    assert service["User"] == service["StateDirectory"] == "stoker"
    assert service["UMask"] == "0077"
    assert "Environment" not in service, "settings, and secrets among them, are in a file that root alone reads"


def test_the_engines_survive_their_agent() -> None:
    service = unit(DEPLOY / "systemd" / "stoker-worker.service")["Service"]
    assert service["KillMode"] == "process"
    assert service["OOMPolicy"] == "continue"
    # Each of these would take away what a running engine uses, or the GPU.
    for setting in ("PrivateTmp", "RuntimeDirectory", "PrivateDevices", "ProtectClock", "DeviceAllow", "MemoryMax"):
        assert setting not in service


def test_the_server_may_answer_what_it_has_begun() -> None:
    service = unit(DEPLOY / "systemd" / "stoker-server.service")["Service"]
    assert service["KillMode"] == "mixed", "the first process alone is told: it ends the others in order"
    assert int(service["TimeoutStopSec"]) > ApiSettings().drain_timeout
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    socket = unit(DEPLOY / "systemd" / "stoker-server.socket")["Socket"]
    assert socket["ListenStream"] == f"{ApiSettings().host}:{ApiSettings().port}"


def test_the_documented_commands_have_the_settings_of_the_units() -> None:
    service = unit(DEPLOY / "systemd" / "stoker-server.service")["Service"]
    shared = {f"{name}={service[name]}" for name in ("User", "StateDirectory", "StateDirectoryMode", "EnvironmentFile")}
    told = documented("systemd-run")
    assert {command.words[-1] for command in told} == {"migrate", "doctor"}
    for command in told:
        words = command.words
        assert {words[at + 1] for at, word in enumerate(words) if word == "-p"} == shared, str(command)
        assert words[-2] == PROGRAM


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("stoker")
    for path in UNITS:
        text = path.read_text().replace(PROGRAM, str(program))  # it checks that the program is there
        (tmp_path / path.name).write_text(text)
    units = [str(tmp_path / path.name) for path in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60, check=False
    )
    said = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "stoker" in line]
    assert (done.returncode, said) == (0, []), done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
@pytest.mark.parametrize(("name", "exposed"), [("server", 2.0), ("control-plane", 2.0), ("worker", 4.5)])
def test_the_services_are_kept_in(name: str, exposed: float) -> None:
    path = DEPLOY / "systemd" / f"stoker-{name}.service"
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    level = re.search(r"exposure level for \S+: (\d+\.\d+)", done.stdout)
    if level is None:
        pytest.skip(f"this systemd does not judge files: {done.stderr.strip()}")
    assert float(level[1]) <= exposed


def test_the_job_of_launchd() -> None:
    path = DEPLOY / "launchd" / "stoker.worker.plist"
    job = plistlib.loads(path.read_bytes())
    assert job["Label"] == path.stem
    assert job["ProgramArguments"] == [PROGRAM, "worker"]
    assert job["AbandonProcessGroup"] is True, "the engines go on without their agent"
    assert job["KeepAlive"] is True
    assert job["RunAtLoad"] is True
    assert job["Umask"] == 0o077
    assert job["UserName"] != "root"
    assert all(isinstance(value, str) for value in job["EnvironmentVariables"].values())
    assert not [name for name in job["EnvironmentVariables"] if re.search("TOKEN|SECRET|KEY", name)]
