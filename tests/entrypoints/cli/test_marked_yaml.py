"""YAML with line numbers."""

import re

import pytest

from entrypoints.cli.marked_yaml import MarkedYamlError, load

TEXT = """\
version: 1
defaults: &defaults
  slots: 2
deployments:
  - name: a
    options:
      <<: *defaults
      context_length: 512
  - name: b
    devices: [box/gpu0,
              box/gpu1]
    since: 2024-05-01
"""


def test_each_field_has_its_line() -> None:
    marked = load(TEXT)
    assert marked.data["deployments"][0]["options"] == {"slots": 2, "context_length": 512}
    assert marked.data["deployments"][1]["since"] == "2024-05-01"
    lines = {
        (): 1,
        ("version",): 1,
        ("deployments",): 4,
        ("deployments", 1): 9,
        ("deployments", 0, "options", "context_length"): 8,
        ("deployments", 0, "options", "slots"): 3,  # where it is written
        ("deployments", 1, "devices", 1): 11,
        ("deployments", 1, "devices", 7): 10,
        ("deployments", 1, "missing", "deeper"): 9,
        ("deployments", 5): 4,
        ("nothing",): 1,
    }
    assert {path: marked.line(path) for path in lines} == lines


def test_an_own_key_wins_over_a_merged_one() -> None:
    marked = load("x: &x {a: 1}\ny:\n  <<: *x\n  a: 2\n")
    assert (marked.data["y"], marked.line(("y", "a"))) == ({"a": 2}, 4)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null"])
def test_nothing_is_no_data(text: str) -> None:
    marked = load(text)
    assert marked.data is None
    assert marked.line(("a",)) >= 1


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("a: [1\nb: 2", "no valid YAML: while parsing a flow sequence: expected ',' or ']', but got ':'", 2),
        ("a: 1\nb: 2\na: 3", "'a' stands here twice", 3),
        ("x:\n  - {a: 1, a: 2}", "'a' stands here twice", 2),
        ("a: 1\n---\nb: 1", "expected a single document", 2),
        ("a: \x00", "special characters are not allowed", 0),
        ("a: !!python/object:os.system 1", "could not determine a constructor", 1),
        ("? {a: 1}\n: 1", "found unhashable key", 1),
        ("a: *b", "found undefined alias", 1),
        ("a: " + "9" * 5000, "no valid YAML: Exceeds the limit", 0),
        ("[" * 500, "it is nested too deeply", 0),
    ],
)
def test_what_is_no_document_says_why_and_where(text: str, message: str, line: int) -> None:
    with pytest.raises(MarkedYamlError, match=re.escape(message)) as caught:
        load(text)
    assert caught.value.line == line


def test_an_alias_may_lead_back() -> None:
    data = load("a: &a [1, *a]").data
    assert data["a"][1] is data["a"]
