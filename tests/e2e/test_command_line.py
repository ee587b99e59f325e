"""The command line against the whole system: a cluster from one file, and what the doctor says of it."""

import json
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from entrypoints.cli.main import app
from tests.docs.commands import documented
from tests.e2e.system import System, eventually

COUNT = 50
MOST_SECONDS = 300.0
"""It takes some seconds, on a machine that has nothing else to do."""


def test_fifty_deployments_twice_exported_and_again(
    system: System, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cluster.yaml"
    names = [f"model-{number:02}" for number in range(COUNT)]
    deployments = [
        {"name": name, "model": f"file:{tiny}", "replicas": 0, "options": {"slots": 1 + number % 4}}
        for number, name in enumerate(names)
    ]
    deployments[0] |= {"replicas": 1, "options": {"context_length": 256}}
    routes = [{"name": "org/first", "targets": [{"deployment": names[0]}], "fallbacks": [{"deployment": names[1]}]}]
    file.write_text(yaml.safe_dump({"version": 1, "deployments": deployments, "routes": routes}))

    began = time.monotonic()
    made = system.cli("apply", "-f", str(file), "--wait", timeout=MOST_SECONDS)
    made_seconds = time.monotonic() - began
    assert "51 made, 0 changed, 0 as they were, 0 removed" in made.stdout
    assert system.answers("org/first")
    before = generations(system)

    began = time.monotonic()
    again = system.cli("apply", "-f", str(file), "--prune", timeout=MOST_SECONDS)
    again_seconds = time.monotonic() - began
    assert again.stdout == (
        "0 to make, 0 to change, 51 as they are, 0 to remove\n0 made, 0 changed, 51 as they were, 0 removed\n"
    )
    assert generations(system) == before == dict.fromkeys(names, 1)

    exported = system.cli("export").stdout
    assert {each["name"]: each for each in yaml.safe_load(exported)["deployments"]} == {
        each["name"]: without_defaults(each) for each in deployments
    }
    file.write_text("version: 1\n")
    emptied = system.cli("apply", "-f", str(file), "--prune", "--yes", timeout=MOST_SECONDS)
    assert "0 made, 0 changed, 0 as they were, 51 removed" in emptied.stdout
    eventually(lambda: not generations(system), system.logs)

    file.write_text(exported)
    began = time.monotonic()
    system.cli("apply", "-f", str(file), timeout=MOST_SECONDS)
    restored_seconds = time.monotonic() - began
    assert system.cli("diff", "-f", str(file), "--prune").stdout.startswith("0 to make, 0 to change, 51 as they are")
    assert system.cli("export").stdout == exported
    system.running(names[0])
    with capsys.disabled():
        print(
            f"\n  {COUNT} deployments and a route: made in {made_seconds:.1f} s, the first one running; the same again "
            f"{again_seconds:.1f} s; from the export {restored_seconds:.1f} s"
        )
    file.write_text("version: 1\n")
    system.cli("apply", "-f", str(file), "--prune", "--yes", timeout=MOST_SECONDS)
    eventually(lambda: not generations(system), system.logs)


def test_the_doctor_finds_nothing_wrong(system: System) -> None:
    ports = {"STOKER_TEMPORAL__PORT": system.temporal_port, "STOKER_TEMPORAL__UI_PORT": system.ui_port}
    system.environment |= {name: str(port) for name, port in ports.items()}  # it was told by flags
    done = system.cli("doctor", "-o", "json", check=False)
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert [each for each in findings.values() if each["verdict"] == "wrong"] == []
    assert done.returncode == 0
    worker = next(check for check in findings if check.startswith("worker "))
    for check in ("Temporal", "control plane", "database", "API", "clock", "key", f"port {system.port}", worker):
        assert findings[check]["verdict"] == "ok", check
    assert findings[f"gateway of {worker.removeprefix('worker ')}"]["verdict"] == "ok"


LOOKS = ("ps", "workers", "files", "routes", "keys", "usage", "engine", "top", "export")
"""Commands that change nothing, without names that the documents made up."""


def test_documented_commands_that_only_look_run_here(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STOKER_DATA_DIR", "STOKER_API__PORT", "STOKER_WORKER__ENGINE"):
        monkeypatch.setenv(name, system.environment[name])
    said = {command.words[1:] for command in documented("stoker")}
    looks = {words for words in said if words and words[0] in LOOKS and words[1:2] in ((), ("ls",), ("list",))}
    assert {("ps",), ("workers",), ("keys",), ("routes",), ("usage",), ("files",), ("engine", "list")} <= looks
    for words in sorted(looks):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"stoker {' '.join(words)}: {done.output}"


def test_a_file_with_a_model_that_is_not_there_changes_nothing(system: System, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(
        f"version: 1\ndeployments:\n- {{name: good, model: 'file:{tiny}', replicas: 0}}\n"
        f"- {{name: bad, model: 'file:{tiny.parent}/missing.gguf'}}\n"
    )
    done = system.cli("apply", "-f", str(file), check=False)
    assert done.returncode == 3, done.stderr
    assert f"{file}:4: deployments.1 (bad): " in done.stderr
    assert generations(system) == {}


def generations(system: System) -> dict[str, int]:
    with system.api() as api:
        listed = api.get("/deployments", params={"limit": 1000}).raise_for_status().json()["data"]
    return {item["name"]: item["generation"] for item in listed}


def without_defaults(deployment: dict[str, object]) -> dict[str, object]:
    """As an export says it: one replica and four slots are what everyone gets."""
    defaults: dict[str, object] = {"replicas": 1, "options": {"slots": 4}}
    return {field: value for field, value in deployment.items() if value != defaults.get(field)}
