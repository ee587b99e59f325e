"""A process that records: `python -m tests.api.usage.recording_process URL FOLDER`.

It does what it is told on stdin, a line each, and says `done`: `record FROM TO`, `confirmed` (waits for the database),
`spooled` (waits until all that is made lies on disk). The end of stdin is its own, in good order.
"""

import sys
from pathlib import Path

import structlog

from api.usage.recorder import UsageRecorder
from entrypoints.clock import utc_now
from stoker.storage.engine import Database
from tests.api.usage.records import record, until


def main() -> None:
    """Runs until stdin ends."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    recorder = UsageRecorder(Database(sys.argv[1]), Path(sys.argv[2]), utc_now)
    recorder.start()
    for line in sys.stdin:
        verb, *arguments = line.split()
        if verb == "record":
            for number in range(*map(int, arguments)):
                recorder.record(record(number))
        elif verb == "confirmed":
            until(lambda: not recorder.waiting)
        else:
            until(lambda: recorder.spooled == recorder.waiting, "all that is made lies in the spool")
        print("done", flush=True)
    recorder.close(10)


if __name__ == "__main__":
    main()
