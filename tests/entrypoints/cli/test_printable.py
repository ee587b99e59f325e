"""What others wrote does not steer the terminal: in tables, and in errors, hints and alarms."""

import pytest

from api.errors import ProblemError
from entrypoints.cli.printable import printable
from stoker.domain.absence import Absence
from tests.entrypoints.cli.conftest import Stoker
from tests.fakes.api import FakeApi

OWNED = "\x1b]0;owned\x07"
SHOWN = "\ufffd]0;owned\ufffd"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("größe 日本 👩‍💻", "größe 日本 👩‍💻"),
        ("\x1b[2J\x1b]0;title\x07", "\ufffd[2J\ufffd]0;title\ufffd"),
        ("\x9b31m\r\x7f", "\ufffd31m\ufffd\ufffd"),
    ],
)
def test_printable(text: str, safe: str) -> None:
    assert printable(text) == safe


def test_an_error_does_not_steer_the_terminal(api: FakeApi, stoker: Stoker) -> None:
    api.refusals = [ProblemError("deployment_deleting", f"it is being deleted{OWNED}")]
    refused = stoker("deploy", "llama", "-m", "hf:org/repo:Q4_K_M")
    assert (refused.exit_code, refused.stderr) == (1, f"error: it is being deleted{SHOWN}\n")
    unknown = stoker("deploy", f"--{OWNED}")
    assert (unknown.exit_code, "\x1b" in unknown.stderr) == (2, False)


def test_an_alarm_does_not_steer_the_terminal(api: FakeApi, stoker: Stoker) -> None:
    api.absence = Absence(held_back=("box-1",), alarm=f"all are silent{OWNED}")
    assert stoker("workers").stderr.startswith(f"ALARM workers_silent_at_once: all are silent{SHOWN}\n")
