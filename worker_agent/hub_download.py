"""The program that downloads one model: `python -m worker_agent.hub_download`, started by `download_process.py`.

It is a program of its own because a download must end at once when it is called off, and only a process can be ended
in the middle of a blocking call. It reads a DownloadRequest (one line of JSON) from stdin, writes DownloadReports (one
a line) to stdout, and ends when it is done or when its stdin closes: it never outlives the agent. HF_TOKEN and the
rest of the hub's settings come by the environment.
"""

import os
import sys
import threading
import time
from typing import Literal

from pydantic import Field

from stoker.domain.base import Bytes, Value
from stoker.model_source_error import ModelSourceError
from worker_agent.hub_transfer import DownloadRequest, ModelTransfer
from worker_agent.transfer_state import TransferState

REPORT_SECONDS = 0.25
_ORPHANED = 3


class DownloadReport(Value):
    """`loading` comes again and again while the program is alive; one of the others comes last."""

    state: Literal["loading", "complete", "failed"]
    files: dict[str, Bytes] = Field(default_factory=dict)  # bytes on disk, by file
    verified: tuple[str, ...] = ()  # files that are whole and right
    from_peers: Bytes = 0  # bytes that came from other workers
    remarks: tuple[str, ...] = ()  # for the log; each is told once
    code: str = ""  # of a ModelSourceError, as the next two
    message: str = ""
    retryable: bool = False


def main() -> int:
    """Downloads what stdin asks for; the exit code is 0 when all is there."""
    request = DownloadRequest.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_agent, daemon=True).start()
    news = threading.Event()
    state = TransferState(news.set)
    threading.Thread(target=_tell_news, args=(state, news), daemon=True).start()
    try:
        ModelTransfer(request, state).run()
    except ModelSourceError as error:
        failed = DownloadReport(state="failed", code=error.code, message=str(error), retryable=error.retryable)
        _tell(failed.model_copy(update={"remarks": tuple(state.take_remarks())}))
        return 1
    _tell(_report(state, "complete"))
    return 0


def _tell_news(state: TransferState, news: threading.Event) -> None:
    """Tells what is new at once, and then no more than every REPORT_SECONDS; the last is never left out."""
    while news.wait():
        news.clear()
        _tell(_report(state, "loading"))
        time.sleep(REPORT_SECONDS)


def _report(state: TransferState, what: Literal["loading", "complete"]) -> DownloadReport:
    return DownloadReport(
        state=what,
        files=state.files(),
        verified=state.verified_files(),
        from_peers=state.from_peers,
        remarks=tuple(state.take_remarks()),
    )


_TELLING = threading.Lock()


def _tell(report: DownloadReport) -> None:
    line = report.model_dump_json().encode() + b"\n"
    with _TELLING:  # lines of two threads stay whole, also those that are longer than a pipe takes at once
        while line:
            line = line[os.write(sys.stdout.fileno(), line) :]


def _end_with_agent() -> None:
    # Not sys.stdin: its lock would be held here when the interpreter wants to end.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(_ORPHANED)


if __name__ == "__main__":
    sys.exit(main())
