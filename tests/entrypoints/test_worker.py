"""What the agent of one host reports."""

from pathlib import Path

import pytest

from entrypoints.worker import _Host
from stoker.settings import Settings
from tests.worker_agent.fake_build import fake_server


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
