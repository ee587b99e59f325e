"""The fuzzer of headers, for a moment; `python -m tests.fuzz_headers` goes on for longer."""

from pathlib import Path

import pytest

from stoker.domain.gguf import Header
from tests.fuzz_headers import Fuzzer


def test_nothing_is_found_in_a_moment(tmp_path: Path) -> None:
    fuzzer = Fuzzer(seed=3, keep=tmp_path)
    fuzzer.run(executions=600)
    assert fuzzer.findings == []
    assert fuzzer.executions == 600
    assert {"profile", "invalid_gguf", "truncated_gguf"} <= set(fuzzer.count), "it gets into every part"


def test_what_should_not_happen_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: list[Header]) -> None:
        raise ZeroDivisionError("a bug")

    fuzzer = Fuzzer(seed=3, keep=tmp_path)
    monkeypatch.setattr("tests.fuzz_headers.profile_of", broken)
    fuzzer.run(executions=50)
    assert len(fuzzer.findings) == 1
    assert fuzzer.findings[0].startswith("ZeroDivisionError in test_fuzz_headers.py")
    assert (tmp_path / "finding-1.gguf").read_bytes()
    assert "a bug" in (tmp_path / "finding-1.txt").read_text()
