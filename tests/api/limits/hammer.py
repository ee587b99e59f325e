"""A process that asks for admission again and again: `python -m tests.api.limits.hammer FILE TRIES LIMITS`.

It waits for a line on stdin, so that all begin at once. For each request that was let in it prints, at its end, when
that was known and when its end was about to be told, by the host's monotonic clock in nanoseconds.
"""

import sys
import time
from pathlib import Path

from api.limits.counter_file import CounterFile
from api.limits.counters import Counted, Counters
from stoker.domain.keys import KeyLimits

KEY = "hammered"
TOKENS = 7


def main() -> None:
    """Runs it."""
    path, tries, limits = Path(sys.argv[1]), int(sys.argv[2]), KeyLimits.model_validate_json(sys.argv[3])
    counters = Counters(CounterFile(path))
    account = counters.account(KEY)
    print("ready", flush=True)
    sys.stdin.readline()
    held: list[tuple[int, int]] = []
    for _ in range(tries):
        found = counters.admit(account, limits, TOKENS)
        if isinstance(found, Counted):
            begun = time.monotonic_ns()
            time.sleep(0)
            held.append((begun, time.monotonic_ns()))
            counters.settle(found, TOKENS)
    for begun, ended in held:
        print(begun, ended)


if __name__ == "__main__":
    main()
