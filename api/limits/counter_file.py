"""The file in which the API processes of one host count together: a record a key, each under a lock of its own.

Records are mapped into memory, so that counting is a few stores; the lock on a record's first byte is the operating
system's, so that one who dies lets go. What a process does stays when it ends: so does the file, and a process that
starts goes on counting where the last one was.

Every process has a slot: a number, and a lock that it holds as long as it lives. Whose lock is free is dead.

These locks belong to a process and an inode: a process must open the file once only.
"""

import errno
import fcntl
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

RECORD_BYTES = 4096
WORDS = RECORD_BYTES // 8  # of a record: signed, 64 bits
SLOTS = 187  # processes that count at once; as many as a record has room for

KEY = 0  # the word of a record that says whose it is; 0: nobody's

LOCK_WITHIN_SECONDS = 0.25
"""A record is held for microseconds. Who holds it longer was stopped in the middle; others must not hang with it."""

STUCK_SECONDS = 1.0
"""For so long such a record is not waited for again."""

_LAYOUT = int.from_bytes(b"stoker-1", "little") >> 1  # another one when the meaning of records changes
_CHUNK = 64  # records by which the file grows: a multiple of every system's mapping granularity
_CHUNK_BYTES = _CHUNK * RECORD_BYTES
_SLOT_LOCKS = 1 << 40  # where the slots' locks lie, far behind the file's end


class CounterError(Exception):
    """Nothing can be counted just now; the message says why."""


class CounterFile:
    """The file, open in this process. Not for several threads."""

    def __init__(self, path: Path) -> None:
        """Opens the file; one that is not there, or is none of ours, is made anew (0600). Raises CounterError."""
        self.path = path
        self._chunks: list[memoryview] = []
        self._stuck: dict[int, float] = {}  # until when, by the lock's offset
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.fchmod(self._fd, 0o600)
                with self.locked(0):
                    self._make_valid()
                    self._map()
                self.slot = self._take_slot()
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as error:
            raise CounterError(f"{path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Gives the slot up. Nothing of the file may be used afterwards."""
        os.close(self._fd)  # with every lock of this process on it

    def has_moved(self) -> bool:
        """Whether the path no longer leads to this file: others count in another one, or will."""
        try:
            there, here = self.path.stat(), os.fstat(self._fd)
        except OSError:
            return True
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    @property
    def records(self) -> int:
        """How many records there are, used or not; the first has the number 1."""
        return len(self._chunks) * _CHUNK - 1

    def record(self, number: int) -> memoryview:
        """The words of a record. Only to be looked at under its lock."""
        begin = number % _CHUNK * WORDS
        return self._chunks[number // _CHUNK][begin : begin + WORDS]

    def find(self, key: int) -> int:
        """The number of the key's record, which is made where there is none. Raises CounterError."""
        with self.locked(0):
            self._map()  # others may have made it longer
            free = 0
            for number in range(1, self.records + 1):
                owner = self._chunks[number // _CHUNK][number % _CHUNK * WORDS + KEY]
                if owner == key:
                    return number
                if not owner and not free:
                    free = number
            if not free:
                free = self.records + 1
                self._grow()
            with self.locked(free):
                record = self.record(free)
                record[:] = _EMPTY
                record[KEY] = key
            return free

    def lock(self, number: int) -> None:
        """Takes a record's lock. Raises CounterError when another one holds it for too long."""
        offset = number * RECORD_BYTES
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except OSError:
            self._wait_for(offset)

    def unlock(self, number: int) -> None:
        """Lets it go."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, number * RECORD_BYTES)

    @contextmanager
    def locked(self, number: int) -> Iterator[None]:
        """Holds a record's lock while the block lasts."""
        self.lock(number)
        try:
            yield
        finally:
            self.unlock(number)

    def is_dead(self, slot: int) -> bool:
        """Whether no living process has this slot."""
        if slot == self.slot:
            return False
        try:
            # Shared, so that two who ask at once do not take each other for its owner.
            fcntl.lockf(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, _SLOT_LOCKS + slot)
        except OSError:
            return False
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _SLOT_LOCKS + slot)
        return True

    def _wait_for(self, offset: int) -> None:
        deadline = time.monotonic() + LOCK_WITHIN_SECONDS
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
            except (BlockingIOError, PermissionError) as error:
                now = time.monotonic()
                if now > deadline or now < self._stuck.get(offset, 0.0):
                    if now > deadline:
                        self._stuck[offset] = now + STUCK_SECONDS
                    holding = f"another process has held a record for {LOCK_WITHIN_SECONDS:g} s"
                    raise CounterError(f"{self.path}: {holding}") from error
                time.sleep(0)  # whoever holds it may need this very core
            except OSError as error:
                raise CounterError(f"{self.path}: cannot be locked: {error.strerror}") from error
            else:
                self._stuck.pop(offset, None)
                return

    def _make_valid(self) -> None:
        size = os.fstat(self._fd).st_size
        head = os.pread(self._fd, 8, 0)
        if size >= _CHUNK_BYTES and int.from_bytes(head, "little") == _LAYOUT:
            return
        # In place, and never shorter: another process may have it mapped.
        chunks = max(1, -(-size // _CHUNK_BYTES))
        for chunk in range(chunks):
            self._write_empty(chunk)
        os.pwrite(self._fd, _LAYOUT.to_bytes(8, "little"), 0)

    def _grow(self) -> None:
        try:
            self._write_empty(len(self._chunks))
        except OSError as error:
            raise CounterError(f"{self.path}: no room for another key's counts: {error.strerror}") from error
        self._map()

    def _write_empty(self, chunk: int) -> None:
        """Written, and not only promised: a mapped page that finds no room on the disk ends its process."""
        if os.pwrite(self._fd, bytes(_CHUNK_BYTES), chunk * _CHUNK_BYTES) < _CHUNK_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _map(self) -> None:
        while (len(self._chunks) + 1) * _CHUNK_BYTES <= os.fstat(self._fd).st_size:
            mapped = mmap.mmap(self._fd, _CHUNK_BYTES, offset=len(self._chunks) * _CHUNK_BYTES)
            self._chunks.append(memoryview(mapped).cast("q"))

    def _take_slot(self) -> int:
        for slot in range(SLOTS):
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _SLOT_LOCKS + slot)
            except (BlockingIOError, PermissionError):
                continue
            return slot
        raise CounterError(f"{self.path}: {SLOTS} processes count in it already")


def word_of(key_id: str) -> int:
    """What stands for a key in its record: 62 bits of a hash, never 0."""
    return int.from_bytes(blake2b(key_id.encode(), digest_size=8).digest(), "little") >> 2 | 1 << 62


_EMPTY = memoryview(bytes(RECORD_BYTES)).cast("q")
