"""What is known of a transfer while several threads work on it."""

import threading
from collections.abc import Callable, Mapping


class TransferState:
    """Takes down how far each file has come. `news` is called, from whichever thread, when something has changed."""

    def __init__(self, news: Callable[[], None] = lambda: None) -> None:
        self._news, self._lock = news, threading.Lock()
        self._there: dict[str, int] = {}
        self._verified: set[str] = set()
        self._remarks: list[str] = []
        self._from_peers = 0

    def start(self, there: Mapping[str, int]) -> None:
        """So many bytes of each file are on disk before anything is done."""
        with self._lock:
            self._there = dict(there)
        self._news()

    def note(self, path: str, there: int) -> None:
        """So many bytes of the file are on disk."""
        with self._lock:
            self._there[path] = there
        self._news()

    def verified(self, path: str) -> None:
        """The file is whole, and its content was checked."""
        with self._lock:
            self._verified.add(path)
        self._news()

    def came_from_peer(self, count: int) -> None:
        """So many more bytes came from another worker."""
        with self._lock:
            self._from_peers += count

    def say(self, remark: str) -> None:
        """Something that an administrator may want to know."""
        with self._lock:
            self._remarks.append(remark)
        self._news()

    @property
    def done(self) -> int:
        """Bytes on disk of all files together."""
        with self._lock:
            return sum(self._there.values())

    @property
    def from_peers(self) -> int:
        """Bytes that came from other workers."""
        return self._from_peers

    def files(self) -> dict[str, int]:
        """Bytes on disk by file."""
        with self._lock:
            return dict(self._there)

    def verified_files(self) -> tuple[str, ...]:
        """Files that are whole and right."""
        with self._lock:
            return tuple(sorted(self._verified))

    def take_remarks(self) -> list[str]:
        """What was said since the last time."""
        with self._lock:
            remarks, self._remarks = self._remarks, []
        return remarks
