"""A model from a hub, by the command line: deployed, downloaded with progress, and removed while it downloads."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.builders import write_tiny_llama
from tests.e2e.system import System, eventually, running_system
from tests.fakes.hub import FakeHub

SOURCE = "hf:acme/tiny-GGUF:F16"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """A hub with one model of five megabytes."""
    root = tmp_path_factory.mktemp("hub")
    (root / "acme" / "tiny-GGUF").mkdir(parents=True)
    write_tiny_llama(root / "acme" / "tiny-GGUF" / "tiny-F16.gguf", size_hint=5_000_000)
    with FakeHub(root) as running:
        yield running


@pytest.fixture(scope="module")
def system(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system that takes its models from that hub."""
    cache = tmp_path_factory.mktemp("cache")
    environment = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache), "HF_TOKEN": "hf_secret_of_the_tests"}
    with running_system(tmp_path_factory.mktemp("data"), environment=environment) as running:
        yield running


def test_progress_is_shown_while_it_downloads_and_removal_ends_it(system: System, hub: FakeHub) -> None:
    hub.faults.rate = 1_000_000
    system.cli("deploy", "slow", "--model", SOURCE, "--no-wait")

    def progress() -> dict[str, float] | None:
        instances = (system.deployment("slow") or {}).get("instances", [])
        shown = instances[0]["progress"] if instances and instances[0]["state"] == "downloading" else None
        return shown if shown and 0 < shown["fraction"] < 1 and shown["bytes_per_second"] else None

    seen = eventually(progress, system.logs)
    assert seen["total"] > 5_000_000
    system.cli("rm", "slow")
    assert system.claims() == {}
    hub.faults.rate = None


def test_a_hub_model_runs(system: System, hub: FakeHub) -> None:
    shown = system.cli("deploy", "tiny", "--model", SOURCE)
    assert "running" in shown.stdout
    found = system.deployment("tiny")
    assert found is not None
    assert found["model_info"]["revision"] == hub.commit("acme/tiny-GGUF")
    assert system.answers("tiny")
    system.cli("rm", "tiny")


def test_its_files_are_listed_and_go_when_nobody_uses_them(system: System, hub: FakeHub) -> None:
    system.cli("deploy", "kept", "--model", SOURCE)

    def listed() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(system.cli("files", "-o", "json").stdout)
        return [item for item in found if "tiny-F16" in item["model"] and item["in_use"]]

    (item,) = eventually(listed, system.logs)
    assert item["stored_bytes"] == item["size_bytes"] > 5_000_000
    assert (item["own"], len(item["instances"])) == (True, 1)
    refused = system.cli("files", "evict", "tiny-F16", check=False)
    assert (refused.returncode, "is in use on" in refused.stderr) == (1, True)
    system.cli("rm", "kept")
    assert "is gone" in system.cli("files", "evict", "tiny-F16").stdout
    assert [
        entry for entry in json.loads(system.cli("files", "-o", "json").stdout) if "tiny-F16" in entry["model"]
    ] == []
    hub.forget()
    system.cli("deploy", "again", "--model", SOURCE)
    assert system.answers("again")
    assert hub.content_sent > 5_000_000, "it was fetched anew"
    system.cli("rm", "again")


def test_an_unknown_repository_is_refused_by_name(system: System) -> None:
    done = system.cli("deploy", "none", "--model", "hf:acme/nothing", check=False)
    assert done.returncode in (1, 3)
    assert "acme/nothing" in done.stderr
    assert system.deployment("none") is None


def test_the_server_and_the_command_line_estimate_the_same(system: System, hub: FakeHub) -> None:
    with system.api() as api:
        told = api.post("/estimates", json={"model": SOURCE, "devices": 2}).raise_for_status().json()
    hub.forget()
    shown = json.loads(system.cli("estimate", SOURCE, "--devices", "2", "-o", "json").stdout)
    assert shown == told
    assert hub.content_sent == 0, "what one process has read, the other does not read again"


def test_the_hub_token_is_nowhere_to_be_seen(system: System) -> None:
    for path in [*(system.folder / "logs").glob("*"), *system.folder.glob("*.db*")]:
        assert b"hf_secret_of_the_tests" not in path.read_bytes(), path
