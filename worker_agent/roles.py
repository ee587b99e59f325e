"""What tells one kind of process from another: how it is started and seen to be ready, and when it must be ended.

main    llama-server: serves a model
rpc     ggml-rpc-server: lends this host's devices to one main server, here or elsewhere
link    the way from a main server on this host to its RPC servers on others
"""

import errno
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from activities.ports import ProcessKey, ProcessSpec, ProcessStartError
from worker_agent.processes import Guard, Readiness
from worker_agent.records import ProcessExit, ProcessRecord


class Launch(NamedTuple):
    """How a process is started. The command holds no secrets: it is written to the log."""

    command: Sequence[str]
    environment: Mapping[str, str]  # what it needs beside what libraries and drivers read
    record: ProcessRecord  # what must be known of it later


class Role(Guard, Protocol):
    """One kind of process."""

    stop_seconds: tuple[float, float, float]  # how long SIGTERM, SIGTERM again, and SIGKILL are given
    tries: int  # how often it is started when it `wants_another_try`

    def launch(self, spec: ProcessSpec) -> Launch:
        """How it is started. Raises ProcessStartError."""
        ...

    def readiness(self, record: ProcessRecord) -> Readiness:
        """How it is seen to be ready."""
        ...

    def wants_another_try(self, lines: Sequence[str]) -> bool:
        """Whether one that ended before it was ready, with these last lines of its log, is simply started again."""
        ...

    def explain(self, record: ProcessRecord, lines: Sequence[str], code: int | None, *, stopped: bool) -> ProcessExit:
        """How it ended, by lines of its log: the beginning if it was never ready, else the end."""
        ...

    def opened(self, record: ProcessRecord) -> None:
        """It is ready. Raises OSError."""
        ...

    def closed(self, key: ProcessKey) -> None:
        """It is over. Raises OSError."""
        ...


def not_runnable(error: OSError, program: str) -> ProcessStartError:
    """What an operating system's refusal to start `program` (or to keep what must be known of it) means."""
    code = "engine_not_runnable" if error.filename == program else "state_not_writable"
    lasting = error.errno in (errno.EACCES, errno.ENOEXEC)
    return ProcessStartError(code, f"{error.filename}: {error.strerror}", retryable=not lasting)
