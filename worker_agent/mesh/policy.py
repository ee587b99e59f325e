"""What the gateway knows of who may reach what: read from the folder again and again."""

import time
from pathlib import Path

import structlog

from worker_agent.mesh.grants import Grant, Grants, Held

log = structlog.get_logger()

PATIENCE_SECONDS = 10.0
"""So long what was known holds while the folder cannot be read; then nothing is granted to anybody."""

_SURE_SECONDS = 2.0  # after which a folder's time tells two changes apart, however coarse the file system's clock


class Policy:
    """The grants, and what is to be told of links. `look` and `tell` block: they are for a thread, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.grants = Grants(folder)
        self._folder = folder / "grants"
        self._known: dict[str, Grant] = {}
        self._changed_at = 0.0  # of the folder, by its file system's clock
        self._read_at = time.monotonic()
        self._complained = False

    def granted(self, service: str, peer: str) -> Grant | None:
        """The grant that lets `peer` ("server", "worker/<name>") reach the service; None: it may not."""
        grant = self._known.get(service)
        return grant if grant is not None and grant.admits(peer) else None

    def services(self) -> frozenset[str]:
        """All that are granted to anybody."""
        return frozenset(self._known)

    def look(self) -> bool:
        """Reads the grants. False: it could not, and what was known holds, for PATIENCE_SECONDS."""
        try:
            changed_at = self._folder.stat().st_mtime
            if changed_at != self._changed_at or abs(time.time() - changed_at) < _SURE_SECONDS:
                self._known = self.grants.all()
            self._changed_at = changed_at
        except OSError as error:
            if not self._complained:
                log.warning("grants_unreadable", folder=str(self._folder), error=str(error))
            self._complained = True
            if self.silent_seconds() > PATIENCE_SECONDS:
                self._known, self._changed_at = {}, 0.0
            return False
        self._read_at, self._complained = time.monotonic(), False
        return True

    def silent_seconds(self) -> float:
        """Since when the folder could not be read."""
        return time.monotonic() - self._read_at

    def tell(self, news: dict[str, Held | None]) -> dict[str, Held | None]:
        """Writes what became of links; None: nothing more is to be said. Returns what could not be written.

        Of a service that is withdrawn no word stays, also where that happens at this moment: who withdraws it removes
        the grant first and then the word, and we write the word first and then look for the grant.
        """
        left: dict[str, Held | None] = {}
        for service, held in news.items():
            try:
                if held is not None:
                    self.grants.tell_held(service, held)
                if held is None or not self.grants.is_granted(service):
                    self.grants.forget_held(service)
            except OSError as error:
                log.warning("link_not_told", service=service, error=str(error))
                left[service] = held
        return left
