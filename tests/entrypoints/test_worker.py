"""What the agent of one host reports."""

from pathlib import Path

import pytest

from entrypoints.worker import _Host
from stoker.settings import Settings
from tests.worker_agent.fake_build import fake_rpc_server, fake_server


def test_a_worker_whose_engine_was_removed_reports_none_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = fake_server(tmp_path / "llama-server", version="11434 (abc1234)")
    monkeypatch.setenv("STOKER_WORKER__LLAMA_SERVER", str(program))
    host = _Host(Settings(data_dir=tmp_path / "data"))
    there = host._look()
    assert there.engine is not None
    program.rename(tmp_path / "elsewhere")
    assert host._look() == there.model_copy(update={"engine": None, "devices": host._look().devices})
    (tmp_path / "elsewhere").rename(program)
    assert host._look().engine == there.engine


def test_a_worker_reports_the_models_that_lie_whole_in_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789" * 4
    snapshot = tmp_path / "hub" / "models--acme--tiny" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name in ("whole.gguf", "part-00001-of-00002.gguf"):
        (snapshot / name).touch()
    monkeypatch.setattr("entrypoints.worker.HF_HUB_CACHE", str(tmp_path / "hub"))
    program = fake_server(tmp_path / "llama-server", version="11434 (abc1234)")
    monkeypatch.setenv("STOKER_WORKER__LLAMA_SERVER", str(program))
    worker = _Host(Settings(data_dir=tmp_path / "data"))._look()
    assert worker.holds == (f"hf:acme/tiny@{commit}/whole.gguf",)
    assert not worker.serves_rpc


@pytest.mark.parametrize(
    ("rpc_server", "gateway", "lends"), [(True, 8411, True), (True, 0, False), (False, 8411, False)]
)
def test_a_worker_lends_devices_where_it_has_an_rpc_server_and_a_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rpc_server: bool, gateway: int, lends: bool
) -> None:
    program = fake_server(tmp_path / "llama-server", version="11434 (abc1234)")
    if rpc_server:
        fake_rpc_server(tmp_path / "ggml-rpc-server", "7.2.1")
    monkeypatch.setenv("STOKER_WORKER__LLAMA_SERVER", str(program))
    host = _Host(Settings(data_dir=tmp_path / "data"))
    host._mesh_port = gateway
    assert host._look().serves_rpc is lends
