"""The table of clients and the programs behind it; `make compatibility` runs them."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compatibility.table import CLIENTS, DOCUMENT, ROWS, Outcome, document

SHARED = {"checks.py", "checks.mjs", "agent_process.py"}


def test_every_row_has_its_program_and_every_program_its_row() -> None:
    assert {path.name for path in CLIENTS.iterdir() if path.suffix in (".py", ".mjs")} - SHARED == {
        row.program for row in ROWS
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_program_can_be_read_and_checks_something(row: object) -> None:
    path: Path = CLIENTS / row.program  # type: ignore[attr-defined]
    text = path.read_text()
    if path.suffix == ".py":
        compile(ast.parse(text), str(path), "exec")
    assert "check(" in text or "report(" in text


def test_the_table_in_the_documentation_has_all_rows() -> None:
    told = DOCUMENT.read_text()
    for row in ROWS:
        assert f"| {row.name} | " in told, f"{row.name} is missing: run `make compatibility`"
        assert row.what in told


def test_the_document_tells_what_failed_and_what_the_model_could_not() -> None:
    outcomes = {row.name: Outcome("1.2", passed=3) for row in ROWS}
    outcomes["llm"] = Outcome("1.0", passed=1, limited=("schema (too small)",), failed=("prompt: KeyError",))
    told = document(outcomes)
    assert "| llm | 1.0 | " in told
    assert "| 1 passed, 1 limited, **1 failed** |" in told
    assert "- llm, limited: schema (too small)" in told
    assert "- llm, failed: prompt: KeyError" in told
    assert "## What did not pass" not in document(dict.fromkeys(outcomes, Outcome("1.2", passed=3)))


def test_a_check_reports_one_line_and_goes_on(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from checks import check\nwith check('good'):\n    pass\nwith check('bad'):\n    raise ValueError('no')\n"
    )
    names = ("BASE_URL", "API_KEY", "MODEL", "TOOL_MODEL", "EMBEDDING_MODEL")
    environment = {f"STOKER_{name}": "x" for name in names} | {"PYTHONPATH": str(CLIENTS)}
    done = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"check": "good", "result": "passed", "note": ""},
        {"check": "bad", "result": "failed", "note": "ValueError: no"},
    ]
