"""A machine that offers little: what does not fit says so in numbers, and starts by itself when there is room."""

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.system import STOKER, System, eventually, running_system

OFFER = "700MiB"  # room for one of the tiny models, and not for two


@pytest.fixture(scope="module")
def small_system(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[System]:
    """One machine with an offer and labels of its own, and a hub of its own."""
    folder = tmp_path_factory.mktemp("small")
    arguments = (
        "--offer",
        f"cpu={OFFER}",
        "--worker-name",
        "box",
        "--label",
        "rack=1",
        "--model-dir",
        str(tiny.parent),
    )
    with running_system(folder, *arguments) as running:
        yield running


def test_the_offer_is_all_there_is(small_system: System) -> None:
    (worker,) = json.loads(small_system.cli("workers", "-o", "json").stdout)
    (cpu,) = worker["devices"]
    assert (worker["name"], worker["labels"], cpu["total_bytes"]) == ("box", {"rack": "1"}, 700 * 2**20)


def test_pending_says_why_and_starts_when_there_is_room(
    small_system: System, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system, model = small_system, f"file:{tiny}"
    system.cli("deploy", "first", "--model", model)
    system.cli("deploy", "second", "--model", model, "--no-wait")
    eventually(lambda: (system.deployment("second") or {}).get("state") == "pending", system.logs)
    (instance,) = (system.deployment("second") or {})["instances"]
    (rejection,) = instance["pending"]["rejections"]
    assert rejection["needed_bytes"] == system.claims()["box/cpu"]
    assert rejection["short_bytes"] == rejection["needed_bytes"] - rejection["available_bytes"] > 0

    why = system.cli("why", "second").stdout
    assert "pending" in why
    assert "MiB" in why
    assert "box" in why
    assert system.cli("deploy", "second", "--model", model, "--timeout", "1", check=False).returncode == 124

    workflow = instance["workflow_id"]
    began = time.monotonic()
    system.cli("rm", "first", "--no-wait")
    (running,) = system.running("second")
    waited = time.monotonic() - began
    assert running["id"] == instance["id"]
    assert running["workflow_id"] == workflow
    with capsys.disabled():
        print(f"\n  rm of the first to the second running: {waited:.2f} s, drain included")
    system.cli("rm", "second")
    assert system.claims() == {}


def test_a_selector_that_nobody_matches(small_system: System, tiny: Path) -> None:
    small_system.cli("deploy", "picky", "--model", f"file:{tiny}", "--selector", "rack=1")
    done = small_system.cli(
        "deploy", "lost", "--model", f"file:{tiny}", "--selector", "rack=2", "--no-wait", check=False
    )
    assert done.returncode == 1
    assert "no worker" in done.stderr
    assert small_system.deployment("lost") is None
    small_system.cli("rm", "picky")


def test_a_second_worker_joins_with_the_token(small_system: System, tiny: Path, tmp_path: Path) -> None:
    environment = {
        **small_system.environment,
        "STOKER_DATA_DIR": str(tmp_path),
        "STOKER_TEMPORAL__ADDRESS": f"127.0.0.1:{small_system.temporal_port}",
        "STOKER_WORKER__JOIN_TOKEN_FILE": str(small_system.folder / "join-token"),
    }
    command = [*STOKER, "worker", "--name", "box2", "--server", small_system.url, "--offer", f"cpu={OFFER}"]
    command += ["--model-dir", str(tiny.parent), "--label", "rack=2"]
    with (tmp_path / "log").open("w") as log:
        agent = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        eventually(lambda: "box2" in small_system.cli("workers").stdout, lambda: (tmp_path / "log").read_text())
        small_system.cli("deploy", "there", "--model", f"file:{tiny}", "--selector", "rack=2")
        (instance,) = small_system.running("there")
        assert instance["placement"]["worker"] == "box2"
        assert small_system.answers("there")
        assert "listening" in small_system.cli("logs", "there", "--tail", "500").stdout
        small_system.cli("rm", "there")
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait(30)
    assert agent.returncode == 0
    assert (tmp_path / "worker" / "box2" / "identity.json").stat().st_mode & 0o777 == 0o600


def test_a_wrong_join_token_is_refused_and_says_so(small_system: System, tmp_path: Path) -> None:
    environment = {
        **small_system.environment,
        "STOKER_DATA_DIR": str(tmp_path),
        "STOKER_TEMPORAL__ADDRESS": f"127.0.0.1:{small_system.temporal_port}",
        "STOKER_WORKER__JOIN_TOKEN": "st-join-wrong",
    }
    done = subprocess.run(
        [*STOKER, "worker", "--name", "stranger", "--server", small_system.url],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "wrong join token" in done.stderr
    assert "stranger" not in small_system.cli("workers").stdout
