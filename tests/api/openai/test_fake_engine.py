"""The fake engine as a program."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.fakes.engine import SCENARIOS


@pytest.mark.parametrize(("scenario", "text"), [("ok", '"content":"hi"'), ("slow-stream", "data: [DONE]")])
def test_it_answers_by_its_scenario(scenario: str, text: str) -> None:
    assert scenario in SCENARIOS
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.engine", "0", scenario],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("listening on ").strip()
        assert text in httpx.post(url, content=b"{}", trust_env=False, timeout=30).text
    finally:
        process.kill()
        process.communicate()
