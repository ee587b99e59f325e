"""How results look."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from entrypoints.cli.output import age, duration, print_change, print_data, show, table

DATA = [{"name": "größe", "replicas": 1, "devices": [], "at": None, "text": "a: b\u2028# c"}]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86_399, "23h"), (10**6, "11d")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_age() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert age(now - timedelta(hours=5), now) == "5h"


def test_json_and_yaml_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    print_data(DATA, "json")
    assert json.loads(capsys.readouterr().out) == DATA
    print_data(DATA, "yaml")
    text = capsys.readouterr().out
    assert yaml.safe_load(text) == DATA
    assert "größe" in text


def test_changes_are_a_line_or_a_document_each(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        print_change("added", DATA[0], "json")
    assert [json.loads(line) for line in capsys.readouterr().out.split("\n")[:-1]] == [
        {"event": "added", "object": DATA[0]}
    ] * 2
    for _ in range(2):
        print_change("added", DATA[0], "yaml")
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == [{"event": "added", "object": DATA[0]}] * 2


def test_without_a_terminal_a_row_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    made = table("NAME", "MESSAGE")
    made.add_row("[bold]smol", "word " * 100)  # square brackets are text, not markup
    show(made)
    assert capsys.readouterr().out == f"NAME        MESSAGE\n[bold]smol  {'word ' * 100}".rstrip() + "\n"
