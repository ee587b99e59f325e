"""Whether the server may believe this agent gone: when it last took a report of it, over the agent's restarts too."""

import time
from pathlib import Path

import structlog

log = structlog.get_logger()


class Presence:
    """Kept in the modification time of an empty file. Without one, only of this agent's life."""

    def __init__(self, file: Path | None, grace: float) -> None:
        """`grace`: seconds of silence after which what runs here may have been given to others."""
        self._file, self._grace = file, grace
        self._taken: tuple[float, float] | None = None  # by the host's clock, and by one that nobody sets

    def taken(self) -> None:
        """A report was taken now."""
        self._taken = time.time(), time.monotonic()
        if self._file is not None:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._file.touch(mode=0o600)
            except OSError as error:  # a full disk, say: the next agent believes that it was away, which is safe
                log.warning("presence_not_kept", path=str(self._file), error=str(error))

    @property
    def was_lost(self) -> bool:
        """Whether the silence was longer than the grace, as far as is known: a clock that went back says nothing."""
        if self._taken is not None:
            wall, steady = time.time() - self._taken[0], time.monotonic() - self._taken[1]
            return wall < -1 or max(wall, steady) > self._grace
        if self._file is None:
            return False
        try:
            silence = time.time() - self._file.stat().st_mtime
        except OSError:
            return True  # never, or not known
        return not -1 <= silence <= self._grace
