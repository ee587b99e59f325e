"""Every command in README and docs is one that the program knows: its name, its flags, its arguments."""

import importlib.util
import re
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from entrypoints.cli.cluster_file import parse
from entrypoints.cli.main import app
from stoker.domain.cluster_plan import ClusterSpec, faults
from tests.docs.commands import ROOT, Documented, commands_in, documented

STOKER = documented("stoker")
MAKE = documented("make")
PYTHON = [*documented("python"), *documented(".venv/bin/python")]


def fault(command: Documented) -> str:
    """Why the program would refuse the command, "" if it would not. Nothing is run.

    One that only stands in a sentence may leave out what must be given, or end in the middle: `stoker keys`.
    """
    words = [word for word in command.words[1:] if word not in ("…", "...")]
    redirected = next((index for index, word in enumerate(words) if re.match(r"^[0-9]?[<>]", word)), len(words))
    words = words[:redirected]
    group = get_command(app)
    try:
        context = group.make_context("stoker", words)
        while context._protected_args:  # a group: the next word names its command
            name, found, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
            context = found.make_context(name, rest, parent=context)
    except typer.Exit:  # --help and --version
        return ""
    except typer.TyperException as error:
        is_part = not command.whole and "Missing" in error.format_message()
        return "" if is_part else error.format_message()
    return ""


def test_there_are_commands() -> None:
    assert len([command for command in STOKER if command.whole]) > 15
    assert len([command for command in STOKER if not command.whole]) > 40
    assert len(MAKE) > 10


@pytest.mark.parametrize("command", STOKER, ids=str)
def test_the_program_knows_the_command(command: Documented) -> None:
    assert fault(command) == ""


@pytest.mark.parametrize("command", MAKE, ids=str)
def test_make_knows_the_target(command: Documented) -> None:
    targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    asked = [word for word in command.words[1:] if "=" not in word]
    assert set(asked) <= set(targets)


@pytest.mark.parametrize("command", PYTHON, ids=str)
def test_python_finds_the_module(command: Documented) -> None:
    if "-m" in command.words:
        assert importlib.util.find_spec(command.words[command.words.index("-m") + 1]) is not None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("    stoker deply smol", "No such command 'deply'."),
        ("    stoker ps --wotch", "No such option: --wotch"),
        ("    stoker deploy smol", "Missing option '--model' / '-m'."),
        ("    stoker scale smol many", "Invalid value for 'REPLICAS'"),
        ("    stoker workers emptied box-1", "No such command 'emptied'."),
        ("    stoker ps now", "Got unexpected extra argument"),
        ("see `stoker ps --wotch`", "No such option: --wotch"),
    ],
)
def test_a_wrong_command_would_be_found(line: str, expected: str) -> None:
    (command,) = commands_in(line, "made-up.md", "stoker")
    assert expected in fault(command)


def test_commands_are_found_as_people_write_them() -> None:
    text = (
        "    X=1 stoker up --port 9000     # all of it\n"
        "    stoker routes; stoker routes rm gpt-4o    two of them\n"
        "```sh\nstoker deploy a \\\n  --model hf:o/r && sudo stoker ps > out\n```\n"
        "```python\nstoker deply\n```\n"
        "Say `stoker keys` or `stoker deploy …`, not stoker deply.\n"
    )
    found = [(command.place, " ".join(command.words), command.whole) for command in commands_in(text, "a.md", "stoker")]
    assert found == [
        ("a.md:1", "stoker up --port 9000", True),
        ("a.md:2", "stoker routes", True),
        ("a.md:2", "stoker routes rm gpt-4o", True),
        ("a.md:4", "stoker deploy a --model hf:o/r", True),
        ("a.md:4", "stoker ps > out", True),
        ("a.md:10", "stoker keys", False),
        ("a.md:10", "stoker deploy …", False),
    ]
    assert all(fault(command) == "" for command in commands_in(text, "a.md", "stoker"))


def test_hints_of_the_program_name_commands_that_there_are() -> None:
    """`see `stoker why NAME``: what errors advise must be there too."""
    wrong = []
    for path in sorted((ROOT / "entrypoints").rglob("*.py")):
        text = re.sub(r"\{[^{}`]*\}", "NAME", path.read_text())
        for command in commands_in(text.replace("    ", ""), str(Path(path).relative_to(ROOT)), "stoker"):
            is_pattern = re.search(r"[|\[]|^stoker NAME", " ".join(command.words)) is not None
            if not is_pattern and fault(command):
                wrong.append(f"{command}: {fault(command)}")
    assert wrong == []


def test_the_cluster_file_in_the_docs_is_one() -> None:
    text = (ROOT / "docs" / "cluster-file.md").read_text()
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    spec = parse(example, "cluster-file.md").spec
    assert [deployment.name for deployment in spec.deployments] == ["smol", "llama"]
    assert faults(spec, ClusterSpec()) == []
