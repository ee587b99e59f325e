"""docker-compose.yml: the specification takes it, everything that it names is there, and nothing is open by accident.

The schema is compose-spec's own (Apache-2.0), as the npm package dclint 3.1.0 carries it. Where Docker Compose itself
is installed, it is asked too. Containers are not started: CI has no Docker daemon.
"""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from typer.main import get_command

from entrypoints.cli.main import app
from stoker.settings import Settings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_the_specification_takes_it() -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
    validator = jsonschema_rs.validator_for(schema)
    assert [
        f"{'/'.join(map(str, error.instance_path))}: {error.message}" for error in validator.iter_errors(COMPOSE)
    ] == []
    broken = {"services": {"api": {**SERVICES["api"], "helthcheck": {}}}}
    assert not validator.is_valid(broken), "a misspelt key is seen"


def test_docker_compose_takes_it(tmp_path: Path) -> None:
    command = docker_compose()
    if command is None:
        pytest.skip("Docker Compose 2.23 or newer is not installed here")
    done = subprocess.run(
        [*command, "--file", str(FILE), "config", "--quiet"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def docker_compose() -> list[str] | None:
    """Docker Compose, new enough for configs with content."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        done = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, timeout=60, check=False)
        found = re.match(r"v?(\d+)\.(\d+)", done.stdout)
        if done.returncode == 0 and found and (int(found[1]), int(found[2])) >= (2, 23):
            return command
    return None


def test_whatever_a_service_names_is_there() -> None:
    for name, service in SERVICES.items():
        for other, need in service.get("depends_on", {}).items():
            if need["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], f"{name} waits for the health of {other}"
            else:
                assert SERVICES[other].get("restart", "").startswith("on-failure"), f"{other} must be one that ends"
        assert set(service.get("secrets", ())) <= COMPOSE["secrets"].keys(), name
        assert {config["source"] for config in service.get("configs", ())} <= COMPOSE["configs"].keys(), name
        for volume in service.get("volumes", ()):
            source, _, rest = volume.partition(":")
            if source.startswith("./"):
                assert (ROOT / source).exists(), volume
                assert rest.endswith(":ro"), f"{volume}: what belongs to the repository is only read"
            else:
                assert source in COMPOSE["volumes"], volume


def test_postgresql_is_healthy_only_when_others_reach_it() -> None:
    """The image's first start runs a server of its own on the Unix socket alone, to set the database up."""
    command = SERVICES["postgres"]["healthcheck"]["test"]
    assert command[command.index("--host") + 1] == "127.0.0.1"


def test_nothing_but_api_and_temporal_can_be_opened_to_others() -> None:
    opened = set()
    for name, service in SERVICES.items():
        for port in service.get("ports", ()):
            address = port.rpartition(":")[0].rpartition(":")[0]
            if address == "${STOKER_BIND:-127.0.0.1}":
                opened.add(name)
            else:
                assert address == "127.0.0.1", f"{name}: {port}"
    assert opened == {"api", "temporal"}


def test_pages_link_to_the_histories_where_the_ui_listens() -> None:
    (port,) = SERVICES["temporal-ui"]["ports"]
    address = port.rpartition(":")[0]
    assert SERVICES["api"]["environment"]["STOKER_TEMPORAL__UI_URL"] == (
        f"${{STOKER_TEMPORAL__UI_URL:-http://{address}}}"
    )


def test_images_name_their_version() -> None:
    for name, service in SERVICES.items():
        assert re.search(r":(\$\{\w+:-)?v?\d+(\.\d+)*\}?$", service["image"]), f"{name}: {service['image']}"


def test_passwords_are_files_and_never_values() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            secret = re.search(r"PASSWORD|PWD|SECRET|TOKEN", variable)
            assert not secret or str(value).startswith("/run/secrets/"), f"{name}: {variable}"


def test_what_runs_of_ours_is_a_command_with_settings_that_there_are() -> None:
    commands, ran = get_command(app).commands, []  # type: ignore[attr-defined]
    for service in SERVICES.values():
        ran += re.findall(r"exec stoker ([a-z-]+)", " ".join(service.get("command", ())))
        for variable in service.get("environment", {}):
            if variable.startswith("STOKER_"):
                assert variable.removeprefix("STOKER_").lower().split("__") in list(settings()), variable
    assert sorted(ran) == ["control-plane", "migrate", "server"]
    assert set(ran) <= commands.keys()


def test_the_image_is_built_from_what_is_packed() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    assert names == {"pyproject.toml", "uv.lock", "README.md", "LICENSE", *packed}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == names


def settings() -> Iterator[list[str]]:
    """The path of each setting."""
    for name, field in Settings.model_fields.items():
        tables = getattr(field.annotation, "model_fields", None)
        yield from ([name, inner] for inner in tables) if tables else [[name]]
