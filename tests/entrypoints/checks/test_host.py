"""What `stoker doctor` sees of the host it runs on."""

import json
import os
import socket
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from entrypoints.checks import host
from entrypoints.checks.findings import Finding, Verdict
from stoker.domain.units import GIB, MIB
from stoker.settings import Settings
from tests.e2e.system import free_ports
from tests.fakes.api import FakeApi
from worker_agent.pids import birth_of


def settings(folder: Path, **tables: object) -> Settings:
    api, temporal, ui = free_ports(3)
    ours: dict[str, object] = {
        "api": {"port": api},
        "temporal": {"port": temporal, "ui_port": ui},
        "worker": {"engine": "bundled"},
    }
    return Settings(data_dir=folder, **(ours | tables))  # type: ignore[arg-type]


def verdicts(findings: list[Finding]) -> list[tuple[str, Verdict]]:
    return [(finding.check, finding.verdict) for finding in findings]


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def test_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdicts(host.check_python()) == [("python", Verdict.OK)]
    monkeypatch.setattr(sys, "version_info", (3, 9, 0))
    (finding,) = host.check_python()
    assert (finding.verdict, finding.advice) == (Verdict.WRONG, "Stoker needs 3.11 or newer: install it")


@pytest.mark.parametrize(
    ("free", "verdict"), [(100 * GIB, Verdict.OK), (GIB, Verdict.WARNING), (10 * MIB, Verdict.WRONG)]
)
def test_room_on_the_disk(free: int, verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(host.shutil, "disk_usage", lambda _: usage(free, 0, free))
    data, models = host.check_folders(settings(tmp_path / "not" / "yet"))
    assert (data.check, data.verdict, models.verdict) == ("data folder", verdict, verdict)
    assert "made by the first start" in data.found
    assert bool(data.advice) is (verdict is not Verdict.OK)


def test_a_data_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    data, _ = host.check_folders(settings(tmp_path / "file" / "below"))
    assert data.verdict is Verdict.WRONG
    assert "cannot be written to" in data.found
    assert "--data-dir" in data.advice


def test_ports_that_are_free_or_taken(tmp_path: Path, listening: int) -> None:
    ours = settings(tmp_path)
    assert [finding.verdict for finding in host.check_ports(ours)] == [Verdict.OK] * 3
    taken = settings(tmp_path, temporal={"port": listening, "ui_port": ours.temporal.ui_port})
    found = host.check_ports(taken)[1]
    assert (found.check, found.verdict) == (f"port {listening}", Verdict.WARNING)
    assert "STOKER_TEMPORAL__PORT" in found.advice
    elsewhere = settings(tmp_path, temporal={"address": "10.0.0.1:7233"})
    assert len(host.check_ports(elsewhere)) == 1


def test_a_port_with_a_stoker_behind_it(tmp_path: Path) -> None:
    with FakeApi().running() as api:
        port = int(api.url.rpartition(":")[2])
        first = host.check_ports(settings(tmp_path, api={"port": port}))[0]
    assert (first.verdict, first.found) == (Verdict.OK, "Stoker's own, for the API")


def test_ports_of_a_system_that_is_up(tmp_path: Path, listening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "processes.json").write_text(json.dumps({"server": os.getpid()}))
    monkeypatch.setattr(host.psutil.Process, "cmdline", lambda _: ["python", "-m", "entrypoints.cli.main", "server"])
    api, temporal, _ = host.check_ports(settings(tmp_path, temporal={"port": listening}))
    assert (temporal.verdict, temporal.found) == (Verdict.OK, "Stoker's own, for Temporal")
    assert (api.verdict, api.found) == (Verdict.WARNING, "`stoker up` runs, and the API is on another port or away")
    (tmp_path / "processes.json").write_text("{")
    assert host.check_ports(settings(tmp_path))[0].verdict is Verdict.OK


def test_the_bundled_engine_runs(tmp_path: Path) -> None:
    engine, *_ = host.check_engine(settings(tmp_path))
    assert (engine.check, engine.verdict) == ("engine", Verdict.OK), engine.found
    assert engine.found.startswith("bundled 20")


def test_an_engine_that_does_not_start_says_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "ImportError: libgomp.so.1: cannot open shared object file"
    command = [sys.executable, "-c", f"raise SystemExit({said!r})"]
    monkeypatch.setattr("worker_agent.engines.BundledEngine.main_command", lambda *_: command)
    engine = host.check_engine(settings(tmp_path))[0]
    assert engine.verdict is Verdict.WRONG
    assert said in engine.found
    assert "libgomp1" in engine.advice


def test_an_own_engine_that_is_none(tmp_path: Path) -> None:
    (finding,) = host.check_engine(settings(tmp_path, worker={"llama_server": tmp_path / "missing"}))
    assert (finding.check, finding.verdict) == ("engine", Verdict.WRONG)
    assert "STOKER_WORKER__LLAMA_SERVER" in finding.advice


def test_an_installed_engine_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    findings = host.check_engine(settings(tmp_path, worker={"engine": "b1-cuda"}))
    assert verdicts(findings)[:2] == [("engine", Verdict.OK), ("engine", Verdict.WARNING)]
    assert findings[1].found.startswith("b1-cuda cannot be used: no engine of that name is installed")


def test_gateways(tmp_path: Path, listening: int) -> None:
    (port,) = free_ports(1)
    (unused,) = host.check_gateways(settings(tmp_path, worker={"mesh_port": port}))
    assert (unused.check, unused.verdict) == ("gateway", Verdict.OK)
    (taken,) = host.check_gateways(settings(tmp_path, worker={"mesh_port": listening}))
    assert taken.verdict is Verdict.WARNING

    birth = birth_of(os.getpid())
    alive = {"pid": os.getpid(), "birth": birth, "host": "127.0.0.1", "port": listening}
    records = {"a": alive, "b": alive | {"port": port}, "c": alive | {"pid": 0, "birth": ""}, "d": None}
    for name, record in records.items():
        path = tmp_path / "worker" / name / "gateway" / "gateway.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record))
    assert verdicts(host.check_gateways(settings(tmp_path))) == [
        ("gateway of a", Verdict.OK),
        ("gateway of b", Verdict.WRONG),
        ("gateway of c", Verdict.WARNING),
        ("gateway of d", Verdict.WARNING),
    ]
