"""The program that downloads one model: `python -m worker_agent.hub_download`, started by `downloads.py`.

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

from stoker.domain.base import Bytes, Value
from stoker.model_source_error import ModelSourceError
from worker_agent.hub_transfer import DownloadRequest, ModelTransfer

REPORT_SECONDS = 0.25
_ORPHANED = 3


class DownloadReport(Value):
    """`loading` comes again and again while the program is alive; one of the others comes last."""

    state: Literal["loading", "complete", "failed"]
    done: Bytes = 0  # bytes on disk, of all files together
    code: str = ""  # of a ModelSourceError, as the next two
    message: str = ""
    retryable: bool = False


def main() -> int:
    """Downloads what stdin asks for; the exit code is 0 when all is there."""
    request = DownloadRequest.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_agent, daemon=True).start()
    try:
        ModelTransfer(request, _Teller().report).run()
    except ModelSourceError as error:
        _tell(DownloadReport(state="failed", code=error.code, message=str(error), retryable=error.retryable))
        return 1
    _tell(DownloadReport(state="complete", done=sum(file.size for file in request.files)))
    return 0


class _Teller:
    """Tells the newest report at once, and then no more than one every REPORT_SECONDS; the last is never left out."""

    def __init__(self) -> None:
        self._done = 0
        self._news = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def report(self, done: int) -> None:
        """Takes the bytes that are on disk now."""
        self._done = done
        self._news.set()

    def _run(self) -> None:
        while self._news.wait():
            self._news.clear()
            _tell(DownloadReport(state="loading", done=self._done))
            time.sleep(REPORT_SECONDS)


def _tell(report: DownloadReport) -> None:
    os.write(
        sys.stdout.fileno(), report.model_dump_json().encode() + b"\n"
    )  # one call: lines of two threads stay whole


def _end_with_agent() -> None:
    # Not sys.stdin: its lock would be held here when the interpreter wants to end.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(_ORPHANED)


if __name__ == "__main__":
    sys.exit(main())
