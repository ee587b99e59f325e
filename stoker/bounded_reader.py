"""Walks forward over bytes that a stranger wrote: all is bounded before it is believed, and what is held is bounded."""

import struct
import threading

from stoker.byte_source import ByteSource

MAX_HEADER = 64 << 20  # bytes; a vocabulary of 262,144 words with its merges takes some 20 MiB
MAX_TENSORS = 16_384  # of all files of a model; the largest published ones have some 2,500
MAX_KEY_TEXT = 2 << 20  # bytes of all keys of a model; each may take four times that in memory
MAX_ITEMS = 1 << 18  # elements kept of all arrays of a model; a byte of one becomes up to 40
KEPT_TEXT = 1 << 20  # bytes; a longer text keeps its length only
KEPT_TEXTS = 4 << 20  # bytes of all texts of a model: those that come after it keep their length only
WINDOW = 64 << 10  # bytes read at once

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


class GGUFError(Exception):
    """A file that cannot be used as a GGUF model.

    `code`: not_gguf, truncated_gguf (it ends before its header says), invalid_gguf, or unsupported_gguf (big-endian, of
    another version of the format, or with a tensor type that is not known here).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Allowance:
    """What the headers of one model may still hold together. Several threads may read on one allowance."""

    def __init__(self) -> None:
        self._left = {"tensors": MAX_TENSORS, "bytes of keys": MAX_KEY_TEXT, "array elements": MAX_ITEMS}
        self._texts = KEPT_TEXTS
        self._lock = threading.Lock()

    def take(self, what: str, count: int) -> None:
        """Uses up `count` of it. Raises GGUFError where that is more than is left."""
        with self._lock:
            self._left[what] -= count
            if self._left[what] < 0:
                raise GGUFError(
                    "invalid_gguf", f"the header holds too many {what}: {-self._left[what]} above the limit"
                )

    def may_keep(self, length: int) -> bool:
        """Whether a text of `length` bytes may be kept; then it counts."""
        with self._lock:
            if length > min(KEPT_TEXT, self._texts):
                return False
            self._texts -= length
            return True


class BoundedReader:
    """Walks forward over a source in windows; leaves neither the file nor the longest header."""

    def __init__(self, source: ByteSource, allowance: Allowance) -> None:
        self._source = source
        self.allowance = allowance
        self._window = b""
        self._start = 0  # of the window, in the source
        self.offset = 0

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        at = self._at(length)
        self.offset += length
        return self._window[at : at + length]

    def skip(self, length: int) -> None:
        """Passes over `length` bytes without reading them."""
        self._check(length)
        self.offset += length

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def count(self, what: str, maximum: int) -> int:
        """A number of things, refused above `maximum`."""
        if (count := self.u64()) > maximum:
            raise GGUFError("invalid_gguf", f"{what} is {count}: at most {maximum} is taken")
        return count

    def text(self, what: str, length: int) -> str:
        """A text of `length` bytes, which must be UTF-8."""
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise GGUFError("invalid_gguf", f"{what} is not UTF-8: {error}") from error

    def skip_texts(self, count: int) -> None:
        """Passes over `count` texts, each with its length before it."""
        self._check(8 * count)
        length_at, passed = _U64.unpack_from, 0
        while passed < count:
            at = start = self._at(8)
            window, last = self._window, len(self._window) - 8
            while at <= last and passed < count:
                at += 8 + length_at(window, at)[0]
                passed += 1
            self.skip(at - start)

    def _at(self, length: int) -> int:
        """Where in the window the next `length` bytes are, read if they were not yet."""
        at = self.offset - self._start
        if at + length <= len(self._window):
            return at
        self._check(length)
        wanted = min(max(length, WINDOW), self._source.size - self.offset)
        self._window, self._start = self._source.read(self.offset, wanted), self.offset
        if len(self._window) < length:
            raise GGUFError("truncated_gguf", f"the file ended at byte {self.offset + len(self._window)} of its header")
        return 0

    def _check(self, length: int) -> None:
        end = self.offset + length
        if end > self._source.size:
            raise truncated(self._source.size, end)
        if end > MAX_HEADER:
            raise GGUFError("invalid_gguf", f"the header goes on to byte {end}: at most {MAX_HEADER} are read")


def truncated(size: int, needed: int) -> GGUFError:
    """The error for a file of `size` bytes that should have `needed`."""
    return GGUFError(
        "truncated_gguf",
        f"the file has {size} bytes, and by its header it needs {needed}: it was cut short, or is still being written",
    )
