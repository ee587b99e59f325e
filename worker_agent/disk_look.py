"""Looks at a disk for the worker's report, in a thread of their own, so that a report never waits for a slow one."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger()

T = TypeVar("T")

REFRESH_SECONDS = 60.0
"""How long a look at the disk holds: other tools on the host fetch into the same cache, and people clean it up."""

WAIT_SECONDS = 0.2
"""How long whoever asks waits for a look that has just begun. A disk that is slower is reported a little later."""


class DiskLook(Generic[T]):
    """What `find` found when it last looked. Fit for any thread."""

    def __init__(
        self,
        find: Callable[[], T],
        before: T,
        *,
        name: str,
        folder: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`find` may block, and raise OSError. `before`: what is known until then. `clock` counts seconds.

        `name` is the thread's; `folder` is where it looks, for the log.
        """
        self._find, self._found, self._clock = find, before, clock
        self._name, self._folder = name, folder
        self._lock = threading.Lock()
        self._looks = False
        self._due = 0.0  # by the clock; 0: at once

    def latest(self) -> T:
        """By the latest look that has ended. Begins another when one is due."""
        with self._lock:
            begins = not self._looks and self._clock() >= self._due
            if begins:
                self._looks, self._due = True, self._clock() + REFRESH_SECONDS
        if begins:
            look = threading.Thread(target=self._look, name=self._name, daemon=True)
            look.start()
            look.join(WAIT_SECONDS)
        return self._found

    def look_again(self) -> None:
        """Something has changed: the next question leads to a look."""
        with self._lock:
            self._due = 0.0

    def _look(self) -> None:
        try:
            self._found = self._find()
        except OSError as error:  # the latest that was known holds
            log.warning("model_cache_not_read", folder=str(self._folder), error=str(error))
        finally:
            with self._lock:
                self._looks = False
