"""Bad input: a clear error that names the field and what would be right, the right status, and nothing left behind."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.system import STOKER, System, free_ports


def refused(system: System, *arguments: str) -> tuple[int, str]:
    done = system.cli(*arguments, check=False)
    return done.returncode, done.stderr


def test_models_that_cannot_be_used(system: System, tiny: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.gguf"
    outside.write_bytes(tiny.read_bytes())
    cut = tiny.with_name("cut.gguf")
    cut.write_bytes(tiny.read_bytes()[:20_000])
    text = tiny.with_name("text.gguf")
    text.write_text("not a model at all, and long enough to be looked at")
    for model, words in (
        (f"file:{tiny}.missing.gguf", "no such file"),
        (f"file:{outside}", "--model-dir"),
        (f"file:{cut}", "cut.gguf"),
        (f"file:{text}", "GGUF"),
        ("m.gguf", "no model source"),
        ("hf:nobody", "ORG/REPO"),
    ):
        code, stderr = refused(system, "deploy", "bad", "--model", model, "--no-wait")
        assert code in (1, 2, 3, 4), (model, stderr)  # failed, usage, not found, not allowed
        assert words in stderr, (model, stderr)
        assert system.deployment("bad") is None
    assert system.claims() == {}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "Not_A_Label"}, "name"),
        ({"name": "x" * 49}, "name"),
        ({"replicas": -1}, "replicas"),
        ({"options": {"slots": 0}}, "options.slots"),
        ({"options": {"cache_type": "q9"}}, "options.cache_type"),
        ({"model": "ftp://m"}, "model"),
        ({"devices": ["gpu0"]}, "devices"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_fields_of_a_deployment(system: System, tiny: Path, body: dict[str, object], field: str) -> None:
    with system.api() as api:
        answer = api.post("/deployments", json={"name": "bad", "model": f"file:{tiny}", **body})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert answer.json()["code"] == "invalid_request"


def test_keys(system: System) -> None:
    with system.api() as api:
        assert api.get("/deployments", headers={"authorization": "Bearer sk-stoker-0-wrong"}).status_code == 401
        assert api.get("/deployments", headers={"authorization": ""}).status_code == 401
    wrong = {**system.environment, "STOKER_API_KEY": "sk-stoker-0-wrong"}
    done = subprocess.run([*STOKER, "ps"], env=wrong, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert "error:" in done.stderr


def test_a_second_system_on_the_same_folder(system: System) -> None:
    ports = [str(port) for port in free_ports(3)]
    arguments = ["--port", ports[0], "--temporal-port", ports[1], "--temporal-ui-port", ports[2]]
    done = subprocess.run(
        [*STOKER, "up", *arguments], env=system.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in (1, 2)
    assert "another `stoker up`" in done.stderr
    assert "--data-dir" in done.stderr


@pytest.mark.parametrize(("option", "hint"), [("--port", "--port"), ("--temporal-port", "--temporal-port")])
def test_a_port_that_is_taken(tmp_path: Path, option: str, hint: str) -> None:
    ports = dict(zip(("--port", "--temporal-port", "--temporal-ui-port"), free_ports(3), strict=True))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports[option] = taken.getsockname()[1]
        arguments = [part for name, port in ports.items() for part in (name, str(port))]
        done = subprocess.run(
            [*STOKER, "up", "--data-dir", str(tmp_path / "data"), *arguments],
            env=dict(os.environ),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode in (1, 2)
    assert str(ports[option]) in done.stderr
    assert hint in done.stderr


def test_temporal_that_does_not_answer(tmp_path: Path) -> None:
    port, nobody = free_ports(2)
    done = subprocess.run(
        [*STOKER, "up", "--data-dir", str(tmp_path / "data"), "--port", str(port)],
        env={**os.environ, "TEMPORAL_ADDRESS": f"127.0.0.1:{nobody}"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert f"127.0.0.1:{nobody}" in done.stderr
    assert "TEMPORAL_ADDRESS" in done.stderr


def test_limits_that_are_no_sizes(tmp_path: Path) -> None:
    done = subprocess.run(
        [*STOKER, "up", "--data-dir", str(tmp_path / "data"), "--offer", "cpu=much"],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "cpu=much" in done.stderr
    assert "2GiB" in done.stderr
