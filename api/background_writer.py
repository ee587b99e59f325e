"""A thread that brings what waits in memory or on disk into the database, again and again until it is there.

Who makes things must not wait for the database, and nothing that was made may be lost because it is away for a while.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog
from sqlalchemy.exc import DataError, SQLAlchemyError

log = structlog.get_logger()

T = TypeVar("T")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 5.0

NEVER_TAKEN = (DataError, OverflowError, ValueError)
"""Values that no column holds: sent again they fail again, and would hold up all that comes after."""


@dataclass(frozen=True)
class Chore:
    """What the same thread does besides, first when it starts, then each so many seconds; what failed is due still.

    It looks at `BackgroundWriter.stopping` where it takes long. It may raise SQLAlchemyError.
    """

    do: Callable[[], None]
    every_seconds: float


class BackgroundWriter(Generic[T]):
    """One thread. After a failure it pauses, each time for twice as long up to a bound; whatever happens it goes on."""

    def __init__(
        self,
        name: str,
        changed: threading.Condition,
        *,
        waits: Callable[[], object],
        first: Callable[[], Sequence[T]],
        send: Callable[[Sequence[T]], None],
        chore: Chore,
    ) -> None:
        """`changed` guards what waits, and is notified when there is more.

        With it held, `waits` says whether anything does, and `first` gives the oldest, a batch's at most. Without it,
        `send` writes these, and lets go of what was taken; it may raise SQLAlchemyError. `name` stands in the log:
        `<name>_not_written`.
        """
        self._name, self._changed = name, changed
        self._waits, self._first, self._send, self._chore = waits, first, send, chore
        self._stopping = self._given_up = False
        self._thread = threading.Thread(target=self._run, name=f"{name}-writer", daemon=True)

    @property
    def stopping(self) -> bool:
        """Whether it only writes what waits, and then ends."""
        return self._stopping

    @property
    def given_up(self) -> bool:
        """Whether what waits now is no longer its own: its time is over, though a write may still be under way."""
        return self._given_up

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def close(self, within: float) -> None:
        """Writes all that waits, for up to so many seconds. Also for one that never began. Blocks."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(within)
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def _run(self) -> None:
        pause, chore_at = 0.0, time.monotonic()
        while True:
            try:
                if (batch := self._next(pause, chore_at)) is None:
                    return
                if batch:
                    self._send(batch)
                if time.monotonic() >= chore_at and not self._stopping:
                    self._chore.do()
                    chore_at = time.monotonic() + self._chore.every_seconds
                pause = 0.0
            except SQLAlchemyError as error:
                pause = min(LONGEST_PAUSE_SECONDS, max(FIRST_PAUSE_SECONDS, pause * 2))
                log.warning(f"{self._name}_not_written", error=str(error), again_in_seconds=pause)
            except Exception:  # the last guard: without this thread nothing would be kept any more
                pause = LONGEST_PAUSE_SECONDS
                log.exception(f"{self._name}_writer_crashed")

    def _next(self, pause: float, chore_at: float) -> Sequence[T] | None:
        """The oldest that wait, after the pause; none when it is time for the chore, None at the end."""
        with self._changed:
            if pause and self._stopping:
                self._changed.wait_for(lambda: self._given_up, min(pause, FIRST_PAUSE_SECONDS))
            elif pause:
                self._changed.wait_for(lambda: self._stopping, pause)
            else:
                until = max(0.0, chore_at - time.monotonic())
                self._changed.wait_for(lambda: self._stopping or self._waits(), until)
            if self._given_up or (self._stopping and not self._waits()):
                return None
            return self._first()
