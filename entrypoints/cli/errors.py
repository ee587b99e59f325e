"""What ends a command, and with which exit code."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of `stoker`. A supervisor takes USAGE as: cannot run with these settings, do not try again."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    TIMED_OUT = 124
    INTERRUPTED = 130


class CliError(Exception):
    """Ends the command: every message becomes a line `error: …` on stderr, `hint` says what to do next."""

    def __init__(self, *messages: str, code: ExitCode = ExitCode.FAILED, hint: str = "") -> None:
        super().__init__("; ".join(messages))
        self.messages, self.code, self.hint = messages, code, hint
