"""The program as a whole: quick help, exit codes, one line an error."""

import re
import subprocess
import sys

import pytest

from stoker.version import VERSION
from tests.entrypoints.cli.conftest import PROGRAM, Stoker, StokerProcess

HEAVY = (
    "temporalio",
    "sqlmodel",
    "sqlalchemy",
    "fastapi",
    "xllamacpp",
    "huggingface_hub",
    "httpx",
    "pydantic",
    "rich",
)
COMMANDS = [
    "estimate",
    "simulate",
    "deploy",
    "ps",
    "describe",
    "why",
    "scale",
    "rollout",
    "rm",
    "logs",
    "chat",
    "workers",
    "files",
    "routes",
    "keys",
    "usage",
    "up",
    "server",
    "control-plane",
    "worker",
    "engine",
    "migrate",
]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_load_nothing_heavy(option: str) -> None:
    code = (
        "import sys\nfrom entrypoints.cli.main import main\nsys.argv = ['stoker', sys.argv[1]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout


def test_help_lists_every_command_once(stoker: Stoker) -> None:
    done = stoker("--help")
    listed = re.findall(r"^  ([a-z][a-z-]*)  ", done.stdout, flags=re.MULTILINE)
    assert listed == COMMANDS
    assert done.exit_code == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str, stoker: Stoker) -> None:
    done = stoker(command, "-h")
    assert done.exit_code == 0
    assert f"Usage: stoker {command}" in done.stdout
    assert not re.search(r"\w\.\.\.", done.stdout), "a description is cut short"


def test_version(stoker: Stoker) -> None:
    assert stoker("--version").stdout == f"stoker {VERSION}\n"


def test_without_a_command_the_help_is_an_error(stoker: Stoker) -> None:
    done = stoker()
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Usage: stoker" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("deplyo",), "No such command 'deplyo'.", "see `stoker --help`"),
        (("ps", "--nonsense"), "No such option: --nonsense", "see `stoker ps --help`"),
        (("ps", "-o", "xml"), "Invalid value for '--output' / '-o': 'xml' is not one of 'table', 'json', 'yaml'.", ""),
        (("deploy", "smol"), "Missing option '--model' / '-m'.", "see `stoker deploy --help`"),
        (("scale", "smol", "many"), "Invalid value for 'REPLICAS'", "see `stoker scale --help`"),
        (
            ("deploy", "smol", "-m", "hf:a/b", "--selector", "zone"),
            "--selector 'zone': write KEY=VALUE, like zone=lab",
            "",
        ),
        (
            ("deploy", "smol", "-m", "hf:a/b", "--selector", "zone=a", "--selector", "zone=b"),
            "--selector 'zone=b': zone was given as 'a' before",
            "",
        ),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], error: str, hint: str, stoker: Stoker) -> None:
    done = stoker(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    first, *rest = done.stderr.splitlines()
    assert first.startswith(f"error: {error}")
    assert f"hint: {hint}" in rest or not hint


def test_as_a_process(stoker_process: StokerProcess) -> None:
    done = stoker_process("ps", "--server", "http://127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "error: no Stoker answers at http://127.0.0.1:1",
        "hint: start it with `stoker up`, or set --server or STOKER_SERVER",
    ]


def test_a_reader_that_leaves_is_no_error_message(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [*PROGRAM, "--help"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
